"""What decisions say, by language: a code and its figures become a sentence."""
# ruff: noqa: E501 - a table of texts, whose Chinese characters count as two

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from whet.errors import InputError

LANGUAGES = ("en", "zh")


Figures = Mapping[str, str | float | int]


class Say(Struct, frozen=True):
    """A sentence: its code, which is stable, and its figures."""

    code: str
    values: Figures = {}

    def text(self, lang: str = "en") -> str:
        """The sentence in a language of `LANGUAGES`."""
        return TEXTS[self.code][LANGUAGES.index(check(lang))].format(**self.values)


def check(lang: str) -> str:
    """The language, if there is one of that name. InputError if not."""
    if lang not in LANGUAGES:
        raise InputError(f"no texts in {lang!r}", why=f"there are {', '.join(LANGUAGES)}", do="choose one of them")
    return lang


TEXTS: dict[str, tuple[str, str]] = {
    # verdicts
    "pays-sure": (
        "It pays: the net present value over {months} months is positive in {share:.1%} of the draws; the investment is back by then in {back:.1%}.",
        "值得:{share:.1%} 的抽样在 {months} 个月内净现值为正;{back:.1%} 的抽样在此期间收回投资。"),
    "never-sure": (
        "It does not pay: the net present value over {months} months is positive in {share:.1%} of the draws only; the investment is back by then in {back:.1%}.",
        "不值得:只有 {share:.1%} 的抽样在 {months} 个月内净现值为正;{back:.1%} 的抽样在此期间收回投资。"),
    "pays-maybe": (
        "Undecided: the net present value over {months} months is positive in {share:.1%} of the draws; the investment is back by then in "
        "{back:.1%}. Find out more of what has the widest bars in the tornado chart.",
        "无法判定:{share:.1%} 的抽样在 {months} 个月内净现值为正;{back:.1%} 的抽样在此期间收回投资。请先查清龙卷风图中最宽的几项。"),
    "pays-as-given": (
        "It pays by the figures as given. How sure that is, is not known: no `uncertainty` is stated.",
        "按所给数字计算是值得的。把握有多大尚不可知:没有给出 `uncertainty`(不确定性)。"),
    "never-as-given": (
        "By the figures as given the net present value over {months} months is negative. How sure that is, is not known: no "
        "`uncertainty` is stated.",
        "按所给数字计算,{months} 个月内的净现值为负。把握有多大尚不可知:没有给出 `uncertainty`(不确定性)。"),
    "after-unreachable": ("{option} does not meet the objective with any fleet: {why}.",
                          "{option} 无论多少台机器都达不到目标:{why}。"),
    "before-unreachable": (
        "{option} does not meet the objective with any fleet, so there is no cost to compare with: {why}. Relax the "
        "objective to what it keeps today.",
        "{option} 无论多少台机器都达不到目标,因此没有可比较的成本:{why}。请把目标放宽到它今天能达到的水平。"),
    # what is lacking
    "lacks-p99": (
        "Undecided: the P99 of {option} is not known, and a mean says nothing of the tail. Measure it (whet bench MODEL "
        "--json FILE) or give p99_ms.",
        "无法判定:{option} 的 P99 未知,平均值不能说明尾延迟。请测量(whet bench MODEL --json FILE)或给出 p99_ms。"),
    "few-samples": (
        "Undecided: {option} was timed {count} times, which bounds no P99. At least {needed} calls do: whet bench "
        "--seconds with more.",
        "无法判定:{option} 只计时了 {count} 次,不能给 P99 定界。至少需要 {needed} 次:加大 whet bench --seconds。"),
    "stated-p99-over": (
        "The stated P99 of {option}, {p99:g} ms, is over the objective of {objective:g} ms: whether any fleet of it keeps "
        "the objective, nobody has measured.",
        "{option} 所称的 P99({p99:g} ms)超过目标 {objective:g} ms:没有人测量过它能否达到目标。"),
    # answers
    "none-meets": ("None of them keeps P99 under {objective:g} ms.", "没有一个方案能把 P99 保持在 {objective:g} ms 以下。"),
    "cheapest": (
        "{option} costs least of those that meet the objective: {total:,.0f} {currency} over {months} months in today's money, "
        "machines that are bought included ({cost:,.2f} a month to run).",
        "在达到目标的方案中 {option} 成本最低:{months} 个月的现值为 {total:,.0f} {currency},含购置(运行每月 {cost:,.2f})。"),
    "fails-objective": ("The objective is not met by {options}, with any fleet.", "{options} 无论多少台机器都达不到目标。"),
    "no-confidence": ("How sure that is, is not known: no `uncertainty` is stated.",
                      "把握有多大尚不可知:没有给出 `uncertainty`(不确定性)。"),
    "sure": ("It is so in {share:.1%} of the draws.", "在 {share:.1%} 的抽样中如此。"),
    "not-sure": ("That is so in {share:.1%} of the draws only: too few to say.", "只有 {share:.1%} 的抽样如此:不足以下结论。"),
    "measure-gpu": (
        "Not known: no two options differ in their device alone. Measure the model on the other GPU (whet bench MODEL "
        "--target cuda --json FILE) and add it as an option beside {option}.",
        "未知:没有两个方案只在设备上不同。请在另一种 GPU 上测量(whet bench MODEL --target cuda --json FILE),并作为 "
        "{option} 之外的方案加入。"),
    "measure-int8": (
        "Not known: no two options differ in integer precision alone. Build and measure one (whet build MODEL --int8 "
        "--calib DATA --eval DATA --metric top1 --max-drop 0.5, then whet bench --json FILE).",
        "未知:没有两个方案只在整数精度上不同。请构建并测量(whet build MODEL --int8 --calib DATA --eval DATA --metric "
        "top1 --max-drop 0.5,然后 whet bench --json FILE)。"),
    "measure-accuracy": (
        "{option} is cheaper, but what accuracy it loses is not known. Measure it: whet build --int8 --calib DATA --eval "
        "DATA --metric top1 --max-drop 0.5.",
        "{option} 更便宜,但精度损失未知。请测量:whet build --int8 --calib DATA --eval DATA --metric top1 --max-drop 0.5。"),
    "measure-places": ("Not known: no option says its place. Measure the model at both, and say place: edge and place: "
                       "cloud, the latter with network_ms.",
                       "未知:没有方案注明位置。请在两处测量,并注明 place: edge 和 place: cloud(后者给出 network_ms)。"),
    "measure-edge": ("Not known: no option is at the edge. Measure the model on the device there, and add it with place: "
                     "edge, purchase and watts.",
                     "未知:没有边缘方案。请在边缘设备上测量,并以 place: edge、purchase 和 watts 加入。"),
    "measure-cloud": ("Not known: no option is in the cloud. Measure the model on an instance, and add it with place: "
                      "cloud and network_ms.",
                      "未知:没有云端方案。请在云实例上测量,并以 place: cloud 和 network_ms 加入。"),
    "measure-network": (
        "Not known: the way to the cloud takes time, and network_ms of the cloud's options is not given. Measure the "
        "round trip's P99 from where the requests come.",
        "未知:到云端的网络时间 network_ms 没有给出。请从请求的来源处测量往返的 P99。"),
    "measure-batches": (
        "Not known: {option} was measured at one batch size. Measure several: whet bench MODEL --shapes x:1x..., "
        "x:4x..., x:8x... --json FILE each.",
        "未知:{option} 只测了一个批大小。请测多个:分别 whet bench MODEL --shapes x:1x...、x:4x...、x:8x... --json FILE。"),
    "best-batch": (
        "Batches of at most {size} of {option}: {devices} machines, {cost:,.2f} {currency} a month, P99 {p99:.3g} ms; "
        "larger and smaller ones cost as much or more, or break the objective.",
        "{option} 的批大小上限取 {size}:{devices} 台机器,每月 {cost:,.2f} {currency},P99 {p99:.3g} ms;更大或更小的批"
        "不会更便宜,或者达不到目标。"),
    "loss-held": (
        "{option} loses at most {upper:.2f} {unit} of {metric} ({loss:.2f} on {samples:,} samples, 95 % confidence), "
        "within the budget of {max_drop:g}.",
        "{option} 的 {metric} 损失至多 {upper:.2f} {unit}({samples:,} 个样本上为 {loss:.2f},95 % 置信),在预算 "
        "{max_drop:g} 之内。"),
    "loss-not-held": ("{option} loses {loss:.2f} {unit} of {metric} on {samples:,} samples, over the budget of "
                      "{max_drop:g}.",
                      "{option} 在 {samples:,} 个样本上 {metric} 损失 {loss:.2f} {unit},超过预算 {max_drop:g}。"),
    "loss-unbounded": ("{option} gives no numbers, or an unbounded loss of {metric}.",
                       "{option} 的输出不是有效数字,或 {metric} 的损失没有界。"),
    "typed-in": ("The speed of {options} is typed in, not measured.", "{options} 的速度是手工输入的,并非实测。"),
    "loss-undecided": (
        "{option} is cheaper, but {samples:,} samples cannot say whether its loss of {metric} ({loss:.2f} {unit}) is "
        "within {max_drop:g}. Evaluate more (needed: {needed}; 0: not known).",
        "{option} 更便宜,但 {samples:,} 个样本不能判定 {metric} 的损失({loss:.2f} {unit})是否在 {max_drop:g} 之内。"
        "请增加评估样本(需要 {needed};0 表示未知)。"),
    # findings
    "stale-price": ("The price of {key}, {price:g} {currency} an hour, is of {as_of}: {days} days old. Check it at {url} and "
                    "give yours with --prices.",
                    "{key} 的价格(每小时 {price:g} {currency})日期为 {as_of},已有 {days} 天。请在 {url} 核对,并用 "
                    "--prices 给出自己的价格。"),
    "other-hardware": ("{option} is said to run on {device} and was measured on {measured}: its figures are those of other "
                       "hardware.",
                       "{option} 声称运行在 {device} 上,却在 {measured} 上测量:数字属于另一种硬件。"),
    "utilization": (
        "{option} is said to carry {rate:g} requests a second on {instances} x {throughput:g} = {capacity:g}: a "
        "utilization of {utilization:.3g}, at which its queue grows without bound. The least stable fleet is {stable}.",
        "{option} 声称用 {instances} x {throughput:g} = {capacity:g} 承载每秒 {rate:g} 个请求:利用率 {utilization:.3g},"
        "队列会无限增长。最小的稳定规模是 {stable} 台。"),
    "utilization-stated": ("{option} is said to be used to {utilization:.0%}: at 100 % and over a queue grows without bound.",
                           "{option} 声称利用率为 {utilization:.0%}:达到或超过 100 % 时队列会无限增长。"),
    "utilization-other": ("{option} is said to be used to {stated:.0%}; its load and throughput give {found:.0%}.",
                          "{option} 声称利用率为 {stated:.0%};由负载和吞吐量得出 {found:.0%}。"),
    "utilization-said": ("A utilization of {utilization:.0%}: at 100 % and over a queue grows without bound.",
                         "利用率 {utilization:.0%}:达到或超过 100 % 时队列会无限增长。"),
    "littles-law": (
        "{option}: {throughput:g} a second x {latency:.4g} ms are {flight:.3g} requests in flight, but only {concurrency} "
        "were (Little's law): one of the figures is wrong.",
        "{option}:每秒 {throughput:g} x {latency:.4g} ms = {flight:.3g} 个在途请求,但并发只有 {concurrency}"
        "(利特尔法则):其中有数字是错的。"),
    "littles-law-idle": (
        "{option}: {throughput:g} a second x {latency:.4g} ms are {flight:.3g} requests in flight of {concurrency} "
        "(Little's law): the rest of the time nobody asked, so the throughput is not the limit.",
        "{option}:每秒 {throughput:g} x {latency:.4g} ms = {flight:.3g} 个在途请求,而并发为 {concurrency}(利特尔法则):"
        "其余时间没有请求,因此该吞吐量不是上限。"),
    "p99-below-mean": ("The P99 of {option}, {p99:g} ms, is below its mean, {mean:g} ms: hardly possible.",
                       "{option} 的 P99({p99:g} ms)低于平均值({mean:g} ms):几乎不可能。"),
    "monthly-cost": (
        "{option} is said to cost {stated:,.2f} {currency} a month; {instances} x {price:g} x {hours:g} h are {found:,.2f}.",
        "{option} 声称每月 {stated:,.2f} {currency};而 {instances} x {price:g} x {hours:g} 小时 = {found:,.2f}。"),
    "payback-other": ("A payback of {stated:g} months is stated; {labour:,.0f} / {saving:,.0f} a month are {found:.3f}.",
                      "声称回本期为 {stated:g} 个月;而 {labour:,.0f} / 每月 {saving:,.0f} = {found:.3f}。"),
    "period-fits": ("The {field} of {stated:g} is stated for {months:g} months; it is that of {fitting}. For {months:g} it "
                    "is {found:.4g}.",
                    "所称的 {field} {stated:g} 标为 {months:g} 个月,实为 {fitting} 个月的值。{months:g} 个月应为 {found:.4g}。"),
    "period-none": ("The {field} of {stated:g} does not follow for {months:g} months: it is {found:.4g}.",
                    "所称的 {field} {stated:g} 与 {months:g} 个月不符:应为 {found:.4g}。"),
    "product": ("{a:g} x {b:g} is {found:g}, not {stated:g}.", "{a:g} x {b:g} = {found:g},而不是 {stated:g}。"),
    "percentage": ("From {first:g} to {second:g} is a change of {found:.3g} %, not of {stated:g} %.",
                   "从 {first:g} 到 {second:g} 的变化是 {found:.3g} %,而不是 {stated:g} %。"),
    "frames-enough": ("{milliseconds:g} ms are enough for {frames:g} frames a second: one after the other they make "
                      "{found:.1f}.",
                      "{milliseconds:g} ms 足以达到每秒 {frames:g} 帧:逐帧处理可达 {found:.1f} 帧。"),
    "frames-too-many": ("{milliseconds:g} ms make {found:.1f} frames a second, one after the other, not {frames:g}.",
                        "{milliseconds:g} ms 逐帧处理是每秒 {found:.1f} 帧,而不是 {frames:g} 帧。"),
}
