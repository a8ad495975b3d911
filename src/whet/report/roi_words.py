"""Headings and labels of the report of `whet roi`, by language."""
# ruff: noqa: E501 - a table of texts, whose Chinese characters count as two

from __future__ import annotations

_ZH = {
    "pays": "值得", "does not pay": "不值得", "undecided": "无法判定", "compared": "成本比较",
    "yes": "是", "no": "否", "not known": "未知",
    "saving a month": "每月节省", "saving in the first month": "首月节省", "payback": "回本期", "NPV": "净现值", "ROI": "投资回报率",
    "investment": "投资", "months": "个月", "never": "未收回", "month": "月",
    "not within {n} months": "{n} 个月内收不回", "90 % of the draws: {a} to {b}": "90 % 的抽样:{a} 至 {b}",
    "no interval: no uncertainty is stated": "无区间:没有给出不确定性",
    "Warnings": "警告", "Options": "方案", "option": "方案", "machines": "机器数", "utilization": "利用率",
    "P99": "P99", "cost a month": "每月成本", "per 1,000": "每千次推理", "evidence": "依据", "price": "价格",
    "measured": "实测", "typed in": "手工输入", "table": "厂商标称板卡功率", "calls": "次调用", "contexts each": "个上下文/机",
    "meets no objective": "达不到目标", "Cash flow": "现金流", "What sways it": "影响最大的因素",
    "P99 against cost": "P99 与成本", "The four questions": "四个问题", "Is a new GPU worth it?": "要不要升级 GPU?",
    "INT8 or not?": "要不要用 INT8?", "Edge or cloud?": "边缘还是云?", "Which batch?": "批大小取多少?",
    "Energy and carbon": "能耗与碳排放", "Prices": "价格来源", "Gains that somebody estimates": "他人估计的业务收益",
    "As stated": "按所述规模计算", "How this was computed": "计算方法", "energy a month": "每月能耗", "carbon a month": "每月碳排放",
    "basis": "依据", "source": "来源", "as of": "日期", "days old": "天数", "stale": "过期", "gain": "收益",
    "a month": "每月", "cheaper in": "更便宜的比例", "not known_": "未知", "money by the end of each month": "截至每月末的累计金额",
    "as given": "按所给数字", "bands: 50 % and 90 % of the draws": "色带:50 % 与 90 % 的抽样",
    "net present value with one figure moved; grey: its low end, green: its high end": "只改变一个数字时的净现值;灰:低端,绿:高端",
    "low end": "低端", "high end": "高端", "assumed 20 % to both sides": "假定上下各 20 %",
    "load": "负载", "growth": "增长", "labour": "人工", "discount": "贴现率",
    "cost a month, each point a fleet; ringed: chosen; dashed: the objective": "每月成本;每点为一种规模;带圈为所选;虚线为目标",
    "P99, ms": "P99,毫秒", "batch": "批", "spares included": "含备用",
    "Costs": "成本", "upkeep": "维护", "energy": "能源", "egress": "流量", "total": "合计",
    "net of investment, {n} months, not discounted": "扣除投资,{n} 个月,不贴现",
    "with gains": "计入收益", "without": "不计收益", "holds in {share} of the draws": "{share} 的抽样支持",
    "measured_note": "", "answer": "答案",
    "load line": "每秒 {rate} 个请求(高峰),平均 {mean},每月增长 {growth} %;目标 P99 {p99} ms;期限 {n} 个月;"
                 "每月 {hours} 小时;贴现率每年 {discount} %",
    "stated line": "按所述的 {before} 台与 {after} 台:每月节省 {saving},比率 {ratio},回本期 {payback} 个月,{n} 个月净回报 "
                   "{roi}。这些规模是否承载得住负载,见警告。",
    "gains line": "这些是估计,不是测量;以上任何数字都不包含它们。",
    "how": "机器数由排队模型得出:模拟到达、批处理与服务时间,取 P99 的 95 % 置信上限不超过目标的最小规模,再加备用;从不"
           "用平均吞吐量。手工输入的吞吐量只有平均值,服务时间按指数分布处理(偏保守),除非另有说明。每月成本 = 机器数 x "
           "(单价 x 小时 + 维护)+ 固定费用 + 能源 + 流量。净现值以年有效贴现率按月末贴现;回本期为累计现金流不再为负的时间;"
           "区间来自 {draws} 次抽样(种子 {seed})。",
}
_EN = {
    "load line": "{rate} requests a second (busy hour), {mean} on average, growing {growth} % a month; objective P99 {p99} "
                 "ms; horizon {n} months; {hours} hours a month; discount {discount} % a year",
    "stated line": "On the {before} and {after} machines that are stated: saving {saving} a month, ratio {ratio}, payback "
                   "{payback} months, net return over {n} months {roi}. Whether these carry the load, the warnings say.",
    "gains line": "These are estimates, not measurements. No figure above has them in it.",
    "how": "The number of machines comes from queueing: arrivals, batching and service are simulated, and the least fleet is "
           "taken whose P99 has its upper 95 % confidence limit at or under the objective, plus spares; never from mean "
           "throughput. Of a throughput that is typed in only the mean is known, so times of service are taken as "
           "exponential, which is on the safe side, unless it is said how they spread. Cost a month = machines x (price x "
           "hours + upkeep) + fixed + energy + egress. The net present value discounts the end of each month by the "
           "effective annual rate; payback is when the sum of the flows is no longer negative; intervals are percentiles "
           "of {draws} draws (seed {seed}).",
    "not known_": "not known", "table": "nominal board power",
}


def label(text: str, lang: str = "en") -> str:
    """A label in a language; English ones stand for themselves."""
    return _ZH.get(text, text) if lang == "zh" else _EN.get(text, text)
