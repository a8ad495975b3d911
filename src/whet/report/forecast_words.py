"""What forecasts say, by language."""
# ruff: noqa: E501 - a table of texts, whose Chinese characters count as two

from __future__ import annotations

from typing import TYPE_CHECKING

from whet.report import words

if TYPE_CHECKING:
    from whet.decide.forecast.result import Note

WORDS: dict[str, tuple[str, str]] = {
    "title": ("Forecast", "预测"),
    "title of": ("Forecast: {names}", "预测:{names}"),
    # what a project lead reads first
    "progress": ("{share} of the target is reached.", "目标已完成 {share}。"),
    "remaining": ("About {expected} more effective optimizations are expected; {count} would be enough with {confidence} confidence.",
                  "预计还需约 {expected} 次有效优化;{count} 次即足够的置信度为 {confidence}。"),
    "remaining one": ("About {expected} more effective optimizations are expected; one would be enough with {confidence} confidence.",
                      "预计还需约 {expected} 次有效优化;1 次即足够的置信度为 {confidence}。"),
    "remaining never": ("More than 1,000 further effective optimizations of the usual size would be needed.", "若每次仍是通常的收益,还需 1,000 次以上有效优化。"),
    "now": ("{metric} is {now}; it began at {base}. The target is {target}.", "{metric} 现为 {now},起点 {base},目标 {target}。"),
    "reached": ("The target is reached: {metric} is {now}, the target {target}.", "目标已达到:{metric} 现为 {now},目标 {target}。"),
    "reached typed": ("The target is reached: nothing remains.", "目标已达到,没有剩余。"),
    "beyond": ("The target cannot be reached on this hardware: {target} is at or beyond its limit of {limit}. The probability is 0.",
               "在此硬件上无法达到目标:{target} 达到或超过其极限 {limit}。概率为 0。"),
    "by": ("By {date} the target is reached with a probability of {probability}.", "到 {date} 达到目标的概率为 {probability}。"),
    "within": ("Within {steps} further effective optimizations it is reached with a probability of {probability}.", "再经 {steps} 次有效优化达到目标的概率为 {probability}。"),
    "held": ("Held: the probability is at least {sure}.", "达标:概率不低于 {sure}。"),
    "not held": ("Not held: the probability is at most {unsure}.", "不达标:概率不高于 {unsure}。"),
    "undecided": ("Undecided: the probability lies between {unsure} and {sure}.", "未定:概率在 {unsure} 与 {sure} 之间。"),
    "floor": ("Below the hardware's limit of {limit} nothing has a probability.", "超出硬件极限 {limit} 的结果概率为零。"),
    # tables
    "milestones": ("Milestones", "里程碑"), "metric": ("metric", "指标"), "target": ("target", "目标"), "level": ("now", "现值"), "done": ("reached", "完成"),
    "more": ("optimizations to go", "尚需优化次数"), "confidence": ("confidence", "置信度"), "verdict": ("verdict", "结论"),
    "by date": ("Probability by date", "按日期的概率"), "by steps": ("Probability by number of effective optimizations", "按有效优化次数的概率"),
    "date": ("by", "截至"), "within n": ("within", "次数"), "probability": ("probability", "概率"),
    "seen": ("Effective optimizations so far", "已有的有效优化"), "when": ("date", "日期"), "gain": ("gain", "收益"),
    "word held": ("held", "达标"), "word not held": ("not held", "不达标"), "word undecided": ("undecided", "未定"), "word stated": ("-", "-"),
    "word reached": ("reached", "已达到"), "word beyond": ("beyond the hardware", "超出硬件极限"),
    "points": ("{value} points", "{value} 个百分点"),
    # charts
    "fan": ("Where {metric} is going", "{metric} 的走势"),
    "fan note": ("line: measurements; bands: 50 %, 80 % and 90 % of what may come; dashed: the target", "实线:测量值;色带:未来的 50 %、80 %、90 % 区间;虚线:目标"),
    "fan limit": ("dotted: the hardware's limit", "点线:硬件极限"),
    "chart steps": ("Probability by number of effective optimizations", "按有效优化次数的概率"),
    "chart steps note": ("each bar: reached within so many further ones", "每条:再经该次数内达到目标"),
    # readiness
    "ready set": ("More than {share} of the {n} models are ready with a probability of {probability}.", "{n} 个模型中超过 {share} 就绪的概率为 {probability}。"),
    "ready one": ("{model} is ready with a probability of {probability}.", "{model} 就绪的概率为 {probability}。"),
    "ready unknown": ("The probability that more than {share} of the {n} models are ready is not known: {missing}.", "无法给出 {n} 个模型中超过 {share} 就绪的概率:{missing}。"),
    "ready unknown one": ("The probability that {model} is ready is not known: {missing}.", "无法给出 {model} 就绪的概率:{missing}。"),
    "missing": ("{model} has no {metric}", "{model} 没有 {metric}"), "no interval": ("{metric} of {model} has no interval", "{model} 的 {metric} 没有区间"),
    "policy": ("Policy (a rule that counts, no probability): {ready} of {n} > {share}: {verdict}.", "策略(计数规则,非概率):{n} 个中 {ready} 个 > {share}:{verdict}。"),
    "policy next": ("Beside it: {ready} of {n} says that a further model like these is ready with a probability of {next}; that more than {share} of such models are, {probability}.",
                    "另注:{n} 个中 {ready} 个就绪,说明下一个同类模型就绪的概率为 {next};同类模型就绪率超过 {share} 的概率为 {probability}。"),
    "ready": ("ready", "就绪"), "not ready": ("not ready", "未就绪"),
    "readiness": ("Readiness", "就绪情况"), "model": ("model", "模型"), "required": ("required", "要求"), "measured": ("measured", "实测"), "basis": ("from", "依据"),
    "basis calls": ("{n} calls", "{n} 次调用"), "basis runs": ("{n} runs", "{n} 次运行"), "basis interval": ("the record's interval", "记录的区间"),
    "basis verdict": ("paired verdict, {n} samples", "配对判定,{n} 个样本"), "basis exact": ("counted", "计数"), "basis no interval": ("no interval", "无区间"), "basis missing": ("not measured", "未测量"),
    "all": ("all of it", "全部"), "unit points": ("points", "个百分点"), "unit percent": ("%", "%"),
    # notes
    "notes": ("What to know", "须知"), "how": ("How this was forecast", "预测方法"),
    "note steps changes": ("{n} effective optimizations: changes of the level for the better that change-point detection finds among {count} measurements, not every lucky run.",
                           "有效优化 {n} 次:由变点检测在 {count} 次测量中找到的水平改善,而非每次偶然的好成绩。"),
    "note steps each": ("{n} effective optimizations: each of the {count} values that improved on the best before it, as asked (--steps each).", "有效优化 {n} 次:{count} 个值中每个刷新最佳的值,按要求(--steps each)。"),
    "note back": ("{n} changes for the worse are in the history; the forecast is of improvements, and does not take them off.", "历史中有 {n} 次退步;预测只计改善,未予扣除。"),
    "note no limit": ("No hardware limit is in the records, so that any value may come to pass; --limit states one.", "记录中没有硬件极限,任何数值都视为可能;可用 --limit 给出。"),
    "note limit": ("The hardware's limit is the least roofline of {n} records: {limit}.", "硬件极限取 {n} 条记录中屋顶线的最小值:{limit}。"),
    "note old": ("The last measurement is {days} days old; dates count from it.", "最近一次测量在 {days} 天前;日期从那时算起。"),
    "note few": ("{n} effective optimizations are few: the probabilities are wide, and change with the next one.", "有效优化仅 {n} 次:概率的不确定性大,下一次会改变它。"),
    "note mixed": ("Measured on different hardware ({devices}), as asked: what the machine changed counts as an optimization.", "按要求混合了不同硬件({devices}):机器带来的变化也计为优化。"),
    "note across": ("Several models by hash are taken for one.", "不同哈希的模型按一个处理。"),
    "note independent": ("Models are taken to be independent of each other; what all share (a library, a driver) makes the outcome of a set more uncertain.", "各模型按相互独立处理;共有的因素(库、驱动)会使整体结果更不确定。"),
    "note mixed ready": ("Models were measured on different hardware, as asked.", "按要求,各模型在不同硬件上测量。"),
    # methods
    "how student": ("The next gains are like those so far: mean {mean} points, n = {n}. Remaining / mean = {remaining} / {mean} = {expected}. The confidence is that of Student's t with {degrees} degrees of freedom: P(k gains cover what remains) = T[(k mean - remaining) / (s sqrt(k + k² / n))], s = {spread}.",
                    "假定今后的收益与以往相同:均值 {mean} 个百分点,n = {n}。剩余 / 均值 = {remaining} / {mean} = {expected}。置信度用自由度 {degrees} 的学生 t 分布:P(k 次收益足够) = T[(k·均值 - 剩余) / (s·sqrt(k + k² / n))],s = {spread}。"),
    "how drawn": ("A compound process: effective optimizations arrive at a rate that is not known (Gamma-Poisson), each with a gain whose logarithm is normal with unknown mean and variance (Student's t); both are drawn 4,000 times from their posteriors. Old steps count for less and gains may decline with their number; the probabilities were held against what came of public histories (docs/forecast.md). Progress is on a {scale} scale.",
                  "复合过程:有效优化以未知速率到来(Gamma-Poisson),每次收益的对数服从均值与方差未知的正态分布(学生 t);两者各从后验抽样 4,000 次。较早的步骤权重较低,收益可随次数递减;所给概率已用公开历史检验(docs/forecast.md)。进度采用{scale}尺度。"),
    "how linear": ("A compound process: effective optimizations arrive at a rate that is not known (Gamma-Poisson), each with a gain that is normal with unknown mean and variance (Student's t); both are drawn 4,000 times from their posteriors. Progress is on a linear scale.",
                   "复合过程:有效优化以未知速率到来(Gamma-Poisson),每次收益服从均值与方差未知的正态分布(学生 t);两者各从后验抽样 4,000 次。进度采用线性尺度。"),
    "how ready": ("A percentile's limit: the share of calls below it has a Beta posterior (Jeffreys), whatever the shape of the latency; with three runs or more, Student's t of the runs. The loss of accuracy: the paired verdict's bound, taken for normal. The number of ready models is Poisson-binomial.",
                  "百分位的限值:低于限值的调用占比服从 Beta 后验(Jeffreys),不假定延迟的形状;三次及以上运行用各次运行的学生 t。精度损失:按配对判定的界,取正态。就绪模型数服从泊松二项分布。"),
    "log": ("logarithmic", "对数"), "linear": ("linear", "线性"),
}


def word(name: str, lang: str, **values: object) -> str:
    """A text in a language; InputError if there is no such language."""
    return words.text(WORDS, name, lang, values)


def sentence(note: Note, lang: str) -> str:
    """A remark in a language."""
    return word(f"note {note.code}", lang, **note.values)
