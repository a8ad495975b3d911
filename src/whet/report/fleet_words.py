"""What the report of `whet plan-fleet` says, by language."""
# ruff: noqa: E501 - a table of texts, whose Chinese characters count as two

from __future__ import annotations

from typing import TYPE_CHECKING

from whet.report import words

if TYPE_CHECKING:
    from whet.decide.fleet_plan import Note

WORDS: dict[str, tuple[str, str]] = {
    "title": ("A fleet for {rate:,.6g} requests a second with P99 at most {objective}", "每秒 {rate:,.6g} 个请求、P99 不超过 {objective} 的服务器规模"),
    "answer": ("{devices:,} devices: {servers:,} servers, {contexts} on each, and {spares} spare devices", "{devices:,} 台设备:{servers:,} 个服务实例,每台 {contexts} 个,另有 {spares} 台备用"),
    "p99 line": ("P99 {p99} (95 % interval {low} to {high}), load {load:.0%}.", "P99 为 {p99}(95 % 区间 {low} 至 {high}),负载 {load:.0%}。"),
    "stable line": ("{stable:,} servers would be enough to keep up, whatever the latency.", "若不计延迟,{stable:,} 个服务实例即可跟上负载。"),
    "unstable line": ("{servers:,} cannot keep up: at a load of {load:.1%} their queue grows without bound.", "{servers:,} 个跟不上:负载 {load:.1%} 时队列会无限增长。"),
    "growth line": ("Sized for {rate:,.6g} requests a second: {rate_now:,.6g} today, and {growth:.0%} more.", "按每秒 {rate:,.6g} 个请求计算:今天 {rate_now:,.6g},再加 {growth:.0%}。"),
    "servers": ("servers", "服务实例"), "devices": ("devices", "设备"), "load": ("load", "负载"),
    "busy": ("busy", "忙碌"), "p50": ("P50", "P50"), "p90": ("P90", "P90"), "p99": ("P99", "P99"),
    "interval": ("95 % interval", "95 % 区间"), "batch": ("mean batch", "平均批大小"), "waited": ("had to wait", "需等待"),
    "requests": ("requests simulated", "模拟请求数"), "meets": ("meets", "达标"), "yes": ("yes", "是"), "no": ("no", "否"),
    "chosen": ("chosen", "所选"), "around": ("Fleets around it", "相近的规模"),
    "chart p99": ("P99 by number of servers", "P99 与服务实例数"),
    "chart p99 note": ("whiskers: 95 % interval; dashed: the objective; ringed: the fleet that was chosen", "须线:95 % 区间;虚线:目标;带圈:所选规模"),
    "chart load": ("Utilization by number of servers", "利用率与服务实例数"),
    "chart load note": ("share of the time that servers work", "服务实例工作时间的比例"),
    "ways": ("Contexts on a device", "每台设备的上下文数"), "contexts": ("contexts", "上下文"),
    "refused-memory": ("does not fit the device's memory", "设备内存放不下"),
    "refused-objective": ("does not meet the objective", "达不到目标"),
    "notes": ("What this rests on, and what is not known", "依据与未知"), "how": ("How this was computed", "计算方法"),
    "service": ("service times", "服务时间"), "arrivals": ("arrivals", "到达"), "batching": ("batching", "批处理"),
    "batching line": ("up to {size} requests, waiting at most {delay}", "最多 {size} 个请求,最多等待 {delay}"),
    "no batching": ("none: requests are served one by one", "无:逐个处理"), "seed": ("seed", "随机种子"),
    "how text": (
        "Requests are simulated from arrival to answer through queue, batches and servers, first come, first served. Every run is long enough to forget that it began empty and to see its tail many times over. The interval of P99 comes from ten stretches of the run, by Student's t, widened where they still depend on each other. The fleet is the least whose interval ends at or under the objective; all fleets see the same requests.",
        "模拟每个请求从到达到应答的全过程:排队、组批、服务,先到先服务。每次模拟足够长,以消除空队列起始的影响并多次观察尾部。P99 的区间由一次模拟的十段得出(学生 t 分布),若各段仍相关则加宽。所选规模是区间上限不超过目标的最小者;所有规模面对相同的请求。"),
    # notes
    "arrivals-poisson": ("Requests are taken to come independently of each other (Poisson). Bursts need more servers: give --burst or --trace.", "假定请求相互独立到达(泊松)。突发流量需要更多服务实例:请给出 --burst 或 --trace。"),
    "arrivals-bursty": ("Requests come in bursts: gaps have a Gamma distribution with a coefficient of variation of {cv:g}. Loads that change over the day are not in it: --rate is that of the busy hour.", "请求突发到达:间隔服从伽马分布,变异系数 {cv:g}。未计入一天之内的变化:--rate 应为高峰值。"),
    "arrivals-trace": ("Requests come as in the trace: {count:,} in {seconds:,.4g} s. The interval tells nothing of days that it does not hold.", "请求按记录到达:{seconds:,.4g} 秒内 {count:,} 个。区间不能说明记录之外的日子。"),
    "short-trace": ("The trace is short: only {count} of its requests lie above its P99.", "记录较短:只有 {count} 个请求高于其 P99。"),
    "dispatch-shared": ("All servers take from one queue, as behind a balancer that sends each request to a free server. With one that throws dice, more are needed: --dispatch random.", "所有服务实例共用一个队列,即负载均衡器总把请求发给空闲实例。若随机分发则需要更多:--dispatch random。"),
    "dispatch-random": ("Every server has its own queue, and requests are thrown among them at random.", "每个服务实例有自己的队列,请求随机分发。"),
    "dispatch-round-robin": ("Every server has its own queue, and requests go to them in turn.", "每个服务实例有自己的队列,请求轮流分发。"),
    "spread-exponential": ("How single requests vary is not known; they are taken as exponential, which is on the safe side of most models. Measured records (--records) tell it.", "单个请求的时间如何变化未知;按指数分布处理,对多数模型偏保守。实测记录(--records)可以给出。"),
    "spread-none": ("How single requests vary is not known; they are taken to last all the same, so P99 may be higher. Measured records (--records) tell it.", "单个请求的时间如何变化未知;假定都相同,因此 P99 可能更高。实测记录(--records)可以给出。"),
    "spread-no-samples": ("The records hold no samples: how single requests vary is not known, and P99 may be higher.", "记录中没有样本:单个请求如何变化未知,P99 可能更高。"),
    "few-samples": ("A batch size was timed only {count} times: the far tail of its times was hardly seen.", "某个批大小只计时了 {count} 次:几乎没有观察到其远端尾部。"),
    "interpolated": ("Times of batches between the measured sizes ({sizes}) are interpolated, smaller ones taken as the smallest.", "已测批大小({sizes})之间的时间为插值,更小的按最小的计。"),
    "contexts-busy": ("Times are those of {contexts} contexts that are all busy on a device; with idle neighbours a request is faster.", "时间取自一台设备上 {contexts} 个上下文都忙碌时;邻居空闲时会更快。"),
    "memory-unknown": ("The memory of a context is not known, so whether more of them fit on a device is not, either.", "一个上下文的内存未知,因此一台设备能否放更多也未知。"),
    "device-memory-unknown": ("The memory of a device was not given (--device-memory): whether more contexts fit on it is not known.", "没有给出设备内存(--device-memory):能否放下更多上下文未知。"),
    "more-fit": ("By memory {fits} contexts fit on a device; more than {measured} were not measured together, and how fast they are nobody knows.", "按内存一台设备可放 {fits} 个上下文;同时超过 {measured} 个没有测量过,速度未知。"),
    "unjudged": ("Fleets of {first} to {last} servers keep up, but so narrowly that no simulation tells their P99: taken not to meet the objective.", "{first} 至 {last} 个服务实例勉强跟得上,但模拟无法判定其 P99:按不达标处理。"),
    "no-spares": ("There are no spares: while a device is down, the objective is not kept.", "没有备用:任何一台设备停机时都达不到目标。"),
    "no-growth": ("No growth of the load is counted.", "没有计入负载增长。"),
    "not-in-it": ("Not in it: the network, work before and after the model, starting servers, failures.", "未计入:网络、模型前后的处理、服务启动、故障。"),
}


def word(name: str, lang: str = "en", **values: object) -> str:
    """A text in a language of `words.LANGUAGES`. InputError if there is no such language."""
    return words.text(WORDS, name, lang, values)


def sentence(note: Note, lang: str = "en") -> str:
    """A note as a sentence."""
    return word(note.code, lang, **note.values) if note.values else word(note.code, lang)
