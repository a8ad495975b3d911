"""Headings and sentences of the report of `whet compare`, by language."""
# ruff: noqa: E501 - a table of texts, whose Chinese characters count as two

from __future__ import annotations

import re

_ZH = {
    "Comparison of {model}": "{model} 的对比",
    "Deploy {key}": "建议部署:{key}",
    "No clear winner; first by its estimates: {key}": "没有明显优胜者;按估计值第一:{key}",
    "Nothing meets the constraints": "没有方案满足约束",
    "The evidence does not say": "证据不足,无法判定",
    "first in {a} of the draws of the measurements": "在 {a} 的测量抽样中排名第一",
    "in {b} when the weights vary too": "权重也变化时为 {b}",
    "Weights: {w}.": "权重:{w}。", "Constraints: {c}.": "约束:{c}。", "no constraints": "无约束",
    "none": "无",
    "A loss of {x} counts as much as another figure that is worse by a factor of 2.7.": "损失 {x} 与其他指标变差 2.7 倍同等计分。",
    "How sure: {a}, {b}.": "把握程度:{a},{b}。",
    "option": "方案", "median": "中位延迟", "P99": "P99 延迟", "throughput": "吞吐量", "accuracy": "准确率", "loss": "损失",
    "output error": "输出误差", "memory": "内存峰值", "size": "大小", "build": "构建时间", "load": "加载时间", "cost": "成本",
    "against {b}": "相对 {b}", "verdict": "结论", "rank": "名次",
    "faster": "更快", "slower": "更慢", "no difference that matters": "无实际差异", "undecided": "无法判定",
    "baseline": "基准", "failed": "失败", "not known": "未知",
    "measured here": "本机实测", "measured on {p}": "在 {p} 实测", "measured at {p}": "在 {p} 实测",
    "cited": "引用", "stale": "过期",
    "P99 against loss": "P99 与损失", "P99 against error of outputs": "P99 与输出误差", "P99 against memory": "P99 与内存",
    "lower left is better; a larger dot needs more memory; the line joins what nothing else beats in both": "越靠左下越好;圆点越大内存越多;连线上的方案没有被其他方案同时在两方面超过",
    "lower left is better; the line joins what nothing else beats in both": "越靠左下越好;连线上的方案没有被其他方案同时在两方面超过",
    "Median latency": "中位延迟", "P99 latency": "P99 延迟", "Latency": "延迟", "Throughput": "吞吐量",
    "in {unit}, shorter is better; whiskers: 95 % interval": "单位 {unit},越短越好;须线为 95 % 区间",
    "samples a second, longer is better; whiskers: 95 % interval": "每秒样本数,越长越好;须线为 95 % 区间",
    "Speed against {b}": "相对 {b} 的速度",
    "paired ratios, over 1 is faster; whiskers: 95 % interval": "配对比值,大于 1 为更快;须线为 95 % 区间",
    "batch {n}": "批 {n}", "{n} threads": "{n} 线程", "threads of a server's own": "线程数由服务器决定",
    "Procurement": "采购对照表", "Every figure is measured here or cited; what is neither is not known.":
        "每个数字要么本机实测,要么注明引用;两者皆无则为未知。",
    "Ranking": "排名", "state": "状态", "score": "得分", "mean rank": "平均名次", "first, measurements drawn": "第一名比例(测量抽样)",
    "first, weights drawn too": "第一名比例(权重也抽样)", "why": "原因",
    "ranked": "已排名", "dominated": "被支配", "not met": "不满足", "not shown": "未能证明",
    "another is as good in everything and better in something": "另有方案处处不差且某方面更好",
    "its outputs are wrong": "输出错误",
    "Builds": "各次构建", "builds": "构建次数", "plans": "不同计划数", "build, each": "每次构建时间", "median, each": "每次中位延迟", "spread": "差距",
    "Differences": "差异", "ratio": "比值", "95 % interval": "95 % 区间", "p (Holm)": "p(Holm 校正)", "rounds": "轮数",
    "What failed": "失败项", "what": "现象", "where": "位置", "Left out": "未参与", "Notes": "说明",
    "How this was measured": "测量方法", "machine": "机器", "versions": "版本", "tools": "工具版本", "lock": "版本锁", "model": "模型", "inputs": "输入", "target": "目标",
    "date": "日期", "features": "特性", "fingerprint": "指纹",
    "DIFFERENT HARDWARE: these rows were not measured on one machine, and differ in more than their backends.":
        "硬件不同:各行并非在同一台机器上测得,差异不止来自后端。",
    "{key} is {v}: {r} times the speed of {b} (95 % interval {lo} to {hi}).": "{key} {v}:速度为 {b} 的 {r} 倍(95 % 区间 {lo} 至 {hi})。",
    "{key} is not told apart from {b} by enough to matter.": "{key} 与 {b} 没有实际差异。",
    "{key} against {b}: undecided ({r}, 95 % interval {lo} to {hi}).": "{key} 与 {b}:无法判定({r},95 % 区间 {lo} 至 {hi})。",
    "{n} of {m} differences are undecided: too few rounds, or too much noise.": "{m} 个差异中有 {n} 个无法判定:轮数太少或噪声太大。",
    "{key} failed: {what}": "{key} 失败:{what}",
    "{key}: outputs are off by {x}, more than the {y} that its precision is allowed.": "{key}:输出误差 {x},超过该精度允许的 {y}。",
    "Accuracy is {s} for {names}: a loss of {l}, at most {u}, of the {b} that may be lost.": "准确率{s}:{names};损失 {l},上限 {u},预算 {b}。",
    "reference": "参照", "no build": "无需构建",
    "held": "守住预算", "not held": "超出预算", "points": "个百分点", "percent": "%", "of": "共",
    "how": "所有在本机运行的后端每次构建后在同一进程、同一输入上轮流运行,各自先有不计时的预热。比值为每轮配对后取中位,再按构建取几何平均;区间来自两层自助法(先构建、后轮次)。p 值按 Holm 法对全部差异校正;小于门槛 {gate} 的差异不计。准确率在相同样本上配对判定(Tango 得分区间,按候选数加宽)。排名只在非支配方案中进行,得分为对数加权积;稳定性为按测量(以及按权重,Dirichlet 分布)抽样时排名第一的比例。",
}
_EN = {
    "how": "For each build, all backends that run here took turns in one process on the same inputs, after uncounted calls of their own. A ratio is that of a round's medians, of which the median is taken over rounds and the geometric mean over builds; its interval is bootstrapped over builds, then rounds. p-values are Holm's over all differences; differences of less than {gate} do not count. Accuracy is judged in pairs on the same samples (Tango's score bound, widened by the number of candidates). Ranked is what nothing else dominates, by a weighted product; stability is the share of draws of the measurements (and of the weights, Dirichlet) in which an option is first.",
}


# Keys, reasons and notes that come as they are said in English, and what they are in Chinese.
_SENTENCES = [(re.compile(a), b) for a, b in (
    (r"(.+), batch (\d+), (\d+) threads", r"\1,批 \2,\3 线程"),
    (r"(.+), batch (\d+)", r"\1,批 \2"),
    (r"([\d.]+%) of ([\d,]+)", r"\1(\2 个样本)"),
    (r"the inputs that were given", "给定的输入"),
    (r"the first samples of the evaluation", "评估数据的前几个样本"),
    (r"the first samples of the calibration", "校准数据的前几个样本"),
    (r"seeded random values", "固定种子的随机值"),
    (r"(\d+) of (\d+) layers in (\w+)", r"\3 层:\2 层中的 \1 层"),
    (r"it has no (\w+) on the target ([\w:]+)", r"在目标 \2 上没有 \1"),
    (r"it does not run on the target ([\w:]+)", r"不能在目标 \1 上运行"),
    (r"it is calibrated with data: give them with --calib", "需要校准数据:用 --calib 给出"),
    (r"a quantized module is another module: name it with --torch", "量化后的模块是另一个模块:用 --torch 指定"),
    (r"the model is quantized, and PyTorch's module is not", "模型已量化,而 PyTorch 模块没有"),
    (r"its quantizer is a package of its own: pip install 'whet\[nncf\]', or give a model with Q/DQ",
     "其量化器是单独的软件包:pip install 'whet[nncf]',或给出带 Q/DQ 的模型"),
    (r"whet's builds read one timing cache and are the same plan: they vary as loading and the machine do\. "
     r"--fresh-builds tunes each anew\.",
     "whet 的各次构建读取同一计时缓存,得到同一个计划:差别只来自加载与机器。--fresh-builds 让每次构建重新调优。"),
    (r"(\d+) builds: how builds differ is not known from fewer than three\.", r"构建 \1 次:少于三次无法得知各次构建的差别。"),
    (r"Cost is that of a machine that does nothing else and is never idle: whet roi sizes fleets\.",
     "成本按机器专用且从不空闲计算:机群规模用 whet roi。"),
)]


def said(sentence: str, lang: str = "en") -> str:
    """A key, a reason or a note in a language; what has no translation stays as it is."""
    if lang == "zh":
        for known, other in _SENTENCES:
            if (found := known.fullmatch(sentence)) is not None:
                return found.expand(other)
    return sentence


def label(text: str, lang: str = "en", **values: object) -> str:
    """A label in a language, with its values; English ones stand for themselves."""
    found = _ZH.get(text, text) if lang == "zh" else _EN.get(text, text)
    return found.format(**values) if values else found
