"""What the reports of gates say, by language."""
# ruff: noqa: E501 - a table of texts, whose Chinese characters count as two

from __future__ import annotations

from whet.report import words

WORDS: dict[str, tuple[str, str]] = {
    "title": ("Gate: {state}", "关卡:{state}"),
    "held": ("held", "达标"), "not held": ("not held", "不达标"), "undecided": ("undecided", "未定"), "not measured": ("could not be measured", "无法测量"),
    "regressed": ("regressed", "退化"), "suspected": ("suspected, not confirmed", "疑似退化,未确认"),
    "say held": ("meets the threshold", "达到阈值"), "say not held": ("does not meet the threshold", "未达到阈值"),
    "say undecided": ("undecided", "无法判定"), "say not measured": ("could not be measured", "无法测量"),
    "say no regression": ("no regression found", "未发现退化"), "say regressed": ("regressed: {metrics}", "退化:{metrics}"),
    "p99": ("P99 {value}", "P99 {value}"), "p50": ("median {value}", "中位数 {value}"), "qps": ("{value} QPS", "{value} QPS"),
    "down": ("down {share}", "下降 {share}"), "up": ("up {share}", "上升 {share}"), "as before": ("as before", "与之前相同"),
    "join": (", ", ","), "open": (" (", "("), "close": (")", ")"),
    "objectives": ("Objectives", "目标"), "history": ("Against its history", "与历史相比"),
    "objective": ("objective", "目标"), "asked": ("asked for", "要求"), "measured": ("measured", "实测"), "interval": ("95 % interval", "95 % 区间"), "verdict": ("verdict", "判定"),
    "metric": ("metric", "指标"), "level": ("level before", "之前水平"), "runs": ("runs", "运行次数"), "now": ("now", "现在"), "change": ("change", "变化"), "spread": ("spread", "离散度"),
    "detectable": ("least that can be found", "可发现的最小退化"), "values": ("values", "历史值数"),
    "goal p99": ("P99 latency", "P99 延迟"), "goal throughput": ("throughput", "吞吐量"), "goal memory": ("peak memory", "峰值内存"), "goal max_drop": ("accuracy loss", "精度损失"), "goal plan_size": ("plan size", "计划大小"),
    "at most": ("at most {value}", "至多 {value}"), "at least": ("at least {value}", "至少 {value}"), "to": ("to", "至"), "unbounded": ("unbounded", "无界"),
    "percent": ("%", "%"), "points": ("points", "个百分点"),
    "notes": ("What to know", "须知"), "setting": ("setting", "条件"), "machine": ("machine", "机器"), "threads": ("threads", "线程"), "date": ("date", "日期"),
    "legend": ("dots: earlier runs (open: not let through); lines: levels; dashed: this run; the axis does not begin at zero", "圆点:以往的运行(空心:未放行);横线:水平;虚线:本次运行;纵轴不从零开始"),
    "how": (
        "An objective is held where the 95 % interval lies within it. A regression is at least {effect} worse than the level of the last segment of the history (change points), with a p-value below {alpha} shared among the metrics, in the median of a run and its reruns; a first run alone is a suspicion. \"Least that can be found\" is the smallest regression that this spread lets be found, with a probability of 95 %.",
        "95 % 区间完全在限度之内才算达标。退化:一次运行及其重跑的中位数比历史最后一段(变点分段)的水平至少差 {effect},且 p 值低于 {alpha}(由各指标分摊);单独一次运行只算疑似。“可发现的最小退化”:在此离散度下能以 95 % 的概率发现的最小退化。"),
    # notes on objectives
    "few-calls": ("{count} calls bound no P99; {needed} do (whet bench --seconds with more).", "{count} 次调用不能给 P99 定界,需要 {needed} 次(加大 whet bench --seconds)。"),
    "no-latency": ("The measurement has no latency.", "测量记录中没有延迟。"), "no-throughput": ("The measurement has no throughput.", "测量记录中没有吞吐量。"),
    "no-memory": ("The measurement has no peak memory (whet bench without --no-memory, on Linux).", "测量记录中没有峰值内存(在 Linux 上运行 whet bench,不要加 --no-memory)。"),
    "no-plan": ("The measurement is of no plan, so there is no plan size.", "测量的不是计划,没有计划大小。"),
    "no-interval": ("No interval is known: judged by the value alone.", "区间未知:仅按数值判定。"),
    "no-accuracy": ("The measurement has no accuracy: measure it (whet compare --eval DATA).", "测量记录中没有精度:请测量(whet compare --eval DATA)。"),
    "no-reference": ("{metric} was judged against no reference: give the measurement before (--before), or one of whet compare.", "{metric} 没有与任何参考比较:请给出之前的测量(--before),或 whet compare 的记录。"),
    "no-share": ("{metric} is no share of right answers, so two values of it cannot be compared without their samples (whet compare --eval DATA).", "{metric} 不是正确率,没有样本就无法比较两个值(whet compare --eval DATA)。"),
    "judged": ("The loss was judged on the same {samples} samples, against {reference}.", "损失在相同的 {samples} 个样本上相对 {reference} 判定。"),
    "samples-needed": ("About {needed} samples would decide it.", "约需 {needed} 个样本才能判定。"),
    "unpaired": ("The loss is of two independent groups ({samples} samples): pairs of the same samples would say more.", "损失按两个独立组计算({samples} 个样本):同样本配对更有说服力。"),
    # notes on trends
    "few-history": ("{count} earlier values on this setting; {needed} are needed to say anything.", "此条件下只有 {count} 个历史值,至少需要 {needed} 个。"),
    "clock": ("{later} values of the history are later than this run (the last of {last}): a clock went back, or this run is an old one. They are left aside.", "历史中有 {later} 个值晚于本次运行(最后一个为 {last}):时钟回拨,或这是旧的运行。这些值不予考虑。"),
    "not-positive": ("Values that are not positive numbers have no relative change.", "非正数无法计算相对变化。"),
    "unconfirmed": ("One run alone does not fail: let it be confirmed (--measure or --rerun).", "单独一次运行不判为失败:请用 --measure 或 --rerun 重跑确认。"),
    "noise": ("The reruns are worse, but not more than this noise explains.", "重跑结果更差,但未超出噪声所能解释的范围。"),
    "not-confirmed": ("The first run stood out; with {reruns} reruns there is no regression.", "首次运行偏离;合并 {reruns} 次重跑后未见退化。"),
    "noisy": ("So noisy that nothing below {detectable:.0%} can be found.", "噪声太大,低于 {detectable:.0%} 的退化无法发现。"),
    "since": ("The level changed at {date}.", "水平自 {date} 起改变。"),
    # notes on cases and the whole
    "wrong": ("The outputs are WRONG: {error:.1e} from {reference}, at most {limit:.0e} is allowed.", "输出错误:与 {reference} 相差 {error:.1e},至多容许 {limit:.0e}。"),
    "no-history": ("No history was asked for (--store).", "未要求与历史比较(--store)。"),
    "other-device": ("This machine has no history of this setting; {count} values are of other hardware ({names}), and are not compared with (--any-device does).", "本机没有此条件的历史;{count} 个值来自其他硬件({names}),不予比较(--any-device 可强制)。"),
    "mixed": ("The history is of several machines, as was asked for: a change may be the machine's.", "按要求,历史来自多台机器:变化可能是机器造成的。"),
    "new-weights": ("The model has other weights than those of {count} of the earlier values.", "模型权重与 {count} 个历史值的不同。"),
    "accepted": ("Accepted: {reason}. The history begins anew with this run.", "已接受:{reason}。历史自本次运行重新开始。"),
    "anew": ("The history begins with the run that was accepted on {date}: {reason}.", "历史自 {date} 接受的运行开始:{reason}。"),
    "reruns-failed": ("No rerun could be made: {why}", "无法重跑:{why}"),
    "atypical": ("Atypical: {precision} takes {gain:.0%} off the latency; before it was {mean:.0%} on average (of {count}).", "异常:{precision} 使延迟降低 {gain:.0%};以往平均为 {mean:.0%}(共 {count} 次)。"),
    "no-plan-given": ("Name the plan (--plan) to see likely causes.", "请用 --plan 指定计划以查看可能的原因。"),
    "kept-layers": ("{count} of {of} layers are not in {precision}.", "{of} 层中有 {count} 层不是 {precision}。"),
    "kept-because": ("{count} of them ({layers}): {reason}.", "其中 {count} 层({layers}):{reason}。"),
    "hosted": ("{count} layers run on the host ({layers}).", "{count} 层在主机上运行({layers})。"),
    "calibrated": ("Calibrated with {samples} samples by {method}.", "用 {samples} 个样本校准,方法 {method}。"),
    "coverage": ("Calibration: {text}.", "校准:{text}。"),
    "no-cause": ("The plan names no cause: every layer that can be is in {precision}.", "计划中没有找到原因:能用 {precision} 的层都已使用。"),
}


def word(name: str, lang: str, **values: object) -> str:
    """A text in a language. InputError if there is no such language."""
    return words.text(WORDS, name, lang, values)
