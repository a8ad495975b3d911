"""What the pages say, by language."""
# ruff: noqa: E501 - a table of texts, whose Chinese characters count as two

from __future__ import annotations

from whet.report import words as report

TEXTS: dict[str, tuple[str, str]] = {
    # every page
    "skip": ("Skip to the content", "跳到正文"),
    "models": ("Models", "模型"), "gates": ("Gates", "门禁"), "forecasts": ("Forecasts", "预测"),
    "comparisons": ("Comparisons", "比较"), "failures": ("Build failures", "构建失败"), "returns": ("Returns", "收益"),
    "pages": ("Pages", "页面"), "language": ("Language", "语言"),
    "store": ("Store: {place}", "存储:{place}"),
    "version": ("whet {version}. This page only reads, and asks nothing of the network.", "whet {version}。本页只读,不访问网络。"),
    "older": ("Older", "更早"), "newer": ("Newer", "更新"), "next": ("Next", "下一页"), "previous": ("Previous", "上一页"),
    "paging": ("More pages", "翻页"), "page of": ("{first}–{last} of {all}", "第 {first}–{last} 项,共 {all} 项"),
    # models
    "size": ("models: {models}; settings: {settings}; measurements: {records}", "{models} 个模型,{settings} 种条件,{records} 次测量"),
    "search": ("Find a model", "查找模型"), "find": ("Find", "查找"),
    "settings of": ("{n} settings", "{n} 种条件"), "setting of": ("1 setting", "1 种条件"),
    "measured": ("measured {date}", "测量于 {date}"),
    "steady": ("steady, last {n}", "最近 {n} 次平稳"), "one point": ("1 measurement", "1 次测量"),
    "none found": ("No model's name holds “{part}”.", "没有模型名包含“{part}”。"),
    "all models": ("All models", "全部模型"),
    "empty": ("Nothing has been measured yet", "还没有任何测量"),
    "empty do": ("Put measurements into the store, then load this page again:", "把测量记录放入存储,然后刷新本页:"),
    # history
    "metric": ("Metric", "指标"), "range": ("Range", "时间范围"), "setting": ("Setting", "条件"), "machine": ("Machine", "机器"),
    "30d": ("30 days", "30 天"), "90d": ("90 days", "90 天"), "1y": ("1 year", "1 年"), "all": ("all", "全部"),
    "now": ("Level now", "当前水平"), "newest": ("Newest value", "最新值"), "last change": ("Last change", "最近一次变化"),
    "next value": ("Next value", "下一个值"), "95": ("95 %: {low} to {high}", "95 %:{low} 至 {high}"),
    "span": ("{low} to {high}", "{low} 至 {high}"),
    "since": ("since {date}, over {n} values", "自 {date} 起,{n} 个值"),
    "no change": ("none", "无"), "no change note": ("one level over the whole range", "整个范围内只有一个水平"),
    "thin": ("few values: the width is that of other series", "值太少:区间宽度借自其他序列"),
    "unknown": ("not known", "未知"), "unknown note": ("too few values", "值太少"),
    "history": ("History of {metric}", "{metric} 的历史"),
    "chart": ("{metric} of {model}, {n} points from {first} to {last}, between {low} and {high}; {changes} changes of level; the level now is {now}",
              "{model} 的 {metric}:{first} 至 {last} 共 {n} 点,介于 {low} 与 {high};水平变化 {changes} 次;当前水平 {now}"),
    "measured point": ("measured", "测量值"), "level": ("level and spread", "水平与离散"), "level alone": ("level", "水平"), "change point": ("level changed", "水平变化"),
    "ahead": ("next {h} values, 95 %", "其后 {h} 个值,95 %"),
    "thinned": ("{n} of {all} points are drawn: of every span of time the first, last, least and greatest (M4)", "共 {all} 点,绘出 {n} 点:每个时段的首、末、最小与最大点(M4)"),
    "stretched": ("changes are looked for among medians of {n} points in a row", "变化点在连续 {n} 点的中位数中寻找"),
    "cut": ("only the newest {n} points are read", "只读取最新的 {n} 个点"),
    "point": ("Point", "点"), "changes": ("What changed", "发生了什么变化"), "from": ("from", "从"), "to": ("to", "到"), "on": ("on", "日期"),
    "effect": ("change", "变化"), "interval": ("95 % interval", "95 % 区间"), "confidence": ("confidence", "置信度"),
    "made by": ("made by", "来自"), "no changes": ("No change of level was found in this range: what differs from point to point is noise of {spread}.",
                                                   "此范围内没有发现水平变化:点与点之间的差异是 {spread} 的噪声。"),
    "one value": ("There is one value: nothing to compare it with.", "只有一个值:无从比较。"),
    "settings": ("Settings of this model", "此模型的各种条件"), "settings note": ("newest value of {metric}", "{metric} 的最新值"),
    "more settings": ("{n} more settings are not drawn; the form above names all.", "另有 {n} 种条件未绘出;上方表单列出全部。"),
    "points": ("Points", "数据点"), "date": ("date", "日期"), "value": ("value", "数值"), "plan": ("plan", "计划"), "release": ("version", "版本"),
    "show": ("Show", "显示"), "nothing in range": ("No measurement lies in this range.", "此时间范围内没有测量。"),
    "first date": ("From", "起"), "last date": ("To", "止"),
    # results
    "kept of model": ("Decided of this model", "关于此模型的决策"), "which model": ("Model", "模型"), "said": ("result", "结果"),
    "kind": ("kind", "类别"), "details": ("Details", "详情"),
    "gate": ("gate", "门禁"), "forecast": ("forecast", "预测"), "comparison": ("comparison", "比较"), "failure": ("build failure", "构建失败"), "roi": ("return", "收益"),
    "none kept": ("None is kept yet.", "还没有保存任何结果。"),
    "none gate": ("whet gate keeps what it finds when a store is named:", "指定存储时,whet gate 会保存其结果:"),
    "none forecast": ("whet forecast keeps what it finds when a store is named:", "指定存储时,whet forecast 会保存其结果:"),
    "none comparison": ("whet compare keeps its result with --keep:", "whet compare 用 --keep 保存结果:"),
    "none failure": ("Builds that fail are recorded here with type, node and stack:", "失败的构建连同类型、节点和调用栈记录于此:"),
    "none roi": ("whet roi keeps its result with --keep:", "whet roi 用 --keep 保存结果:"),
    "state held": ("held", "达成"), "state not held": ("not held", "未达成"), "state undecided": ("undecided", "无法判定"), "state not measured": ("not measured", "未测量"), "state stated": ("stated", "陈述"),
    "state recommended": ("recommended", "推荐"), "state nothing meets the constraints": ("nothing meets the constraints", "无一满足约束"),
    "target": ("target", "目标"), "limit": ("limit of the hardware", "硬件极限"), "by date": ("reached by", "达到的概率"), "how": ("How this was computed", "计算方法"), "notes": ("Notes", "备注"),
    "stack": ("Stack", "调用栈"), "message": ("message", "消息"), "node": ("node", "节点"),
    "trend": ("{metric}: the last {n} values and the new one, {now}", "{metric}:最近 {n} 个值与新值 {now}"),
    "several models": ("several models", "多个模型"), "whole": ("The whole result", "完整结果"), "whole note": ("as it is kept", "按保存的原样"),
    "cut off": ("{n} more, in the JSON", "另有 {n} 项,见 JSON"), "as json": ("as JSON", "JSON 格式"),
    # returns
    "returns title": ("What would it return?", "回报如何?"), "returns intro": ("Choose what runs today and what would run, both from the store, and move the figures.", "选择当前运行的方案与替代方案(均来自存储),再拖动各个数字。"),
    "scenario": ("Scenario", "情景"), "before": ("Runs today", "当前方案"), "after": ("Would run", "替代方案"),
    "from the store": ("from the store", "来自存储"),
    "rate": ("Requests a second, busy hour", "高峰每秒请求数"), "p99": ("Objective: P99", "目标:P99"), "price_before": ("Price an hour, today", "每小时价格,当前"),
    "price_after": ("Price an hour, then", "每小时价格,替代"), "labour": ("Labour of the change", "变更的人工成本"), "growth": ("Growth a month", "每月增长"),
    "horizon": ("Horizon", "期限"), "discount": ("Discount rate a year", "年贴现率"),
    "months": ("months", "个月"), "compute": ("Compute", "计算"), "computing": ("Computing…", "计算中……"),
    "need two": ("There is nothing to compare: a return needs two settings of one model, each with its latency measured.", "无可比较:收益计算需要同一模型的两种条件,且都测过延迟。"),
    "quick": ("Each fleet is simulated with {requests} requests and {draws} worlds are drawn, so that it follows your hand; whet roi takes as many as each needs.", "为跟随拖动,每个机群只模拟 {requests} 个请求,抽样 {draws} 次;whet roi 会取足够多。"),
    "assumed spread": ("Assumed: the load lies 20 % lower to 30 % higher than given (90 %). Scenarios of your own say what is uncertain in them.", "假定:负载比给定值低 20 % 至高 30 %(90 %)。自己的情景文件可说明哪些数字不确定。"),
    "result": ("Result", "结果"), "cash": ("Cash flow", "现金流"), "tornado": ("What sways it", "影响最大的因素"), "fleets": ("Fleets", "机群"),
    "no javascript": ("Move the figures, then press Compute.", "调整数字后按“计算”。"),
    "kept returns": ("Kept", "已保存"), "failed request": ("The board does not answer. Is whet board still running?", "看板没有响应。whet board 还在运行吗?"),
    "warnings": ("Warnings", "警告"),
    # errors
    "not found": ("There is no such page", "没有这个页面"), "not found do": ("Begin at the list of models.", "请从模型列表开始。"),
    "no model": ("No model of this name is in the store", "存储中没有这个名称的模型"), "no result": ("No result of this number is in the store", "存储中没有这个编号的结果"),
    "why": ("why", "原因"), "where": ("where", "位置"), "do": ("what to do", "怎么办"),
    "broken": ("The board could not make this page", "看板无法生成此页"), "broken do": ("The terminal that whet board runs in has the details.", "详情见运行 whet board 的终端。"),
}


def text(name: str, lang: str, **values: object) -> str:
    """A text in a language. InputError if there is no such language."""
    return report.text(TEXTS, name, lang, values)
