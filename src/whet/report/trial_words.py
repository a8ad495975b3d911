"""What the reports of trials say, by language."""
# ruff: noqa: E501 - a table of texts, whose Chinese characters count as two

from __future__ import annotations

from typing import TYPE_CHECKING

from whet.report import words

if TYPE_CHECKING:
    from whet.decide.trial_record import Note

WORDS: dict[str, tuple[str, str]] = {
    "title": ("A/B trial: {b} against {a}", "A/B 试验:{b} 对 {a}"),
    "design title": ("Design of an A/B trial: a margin of {margin}", "A/B 试验设计:容许损失 {margin}"),
    "held": ("Held: {b} loses at most {upper}; less than {margin} was asked for.", "达标:{b} 至多损失 {upper},低于要求的 {margin}。"),
    "gained": ("Held: {b} is better by at least {gain}; losing less than {margin} was asked for.", "达标:{b} 至少好 {gain};要求损失低于 {margin}。"),
    "not held": ("Not held: {b} loses more than {lower}, over the {margin} that was allowed.", "不达标:{b} 的损失超过 {lower},高于容许的 {margin}。"),
    "undecided": ("Undecided: the loss of {b} lies between {lower} and {upper}; {margin} was allowed.", "未定:{b} 的损失在 {lower} 与 {upper} 之间;容许 {margin}。"),
    "figures": ("{metric}: {value_a} becomes {value_b}, a loss of {loss}.", "{metric}:由 {value_a} 变为 {value_b},损失 {loss}。"),
    "figures gained": ("{metric}: {value_a} becomes {value_b}, better by {loss}.", "{metric}:由 {value_a} 变为 {value_b},改善 {loss}。"),
    "answered": ("{discordant} of {n} samples were answered differently: {lost} lost, {gained} gained.", "{n} 个样本中有 {discordant} 个答案不同:失 {lost},得 {gained}。"),
    "sure": ("Each bound is wrong with a probability of {alpha} at most, over all looks at the trial.", "在整个试验的所有查看中,每个界出错的概率至多为 {alpha}。"),
    "next": ("Next: about {needed} {samples} in all would decide it, {more} more.", "下一步:总共约 {needed} {samples}可以判定,还需 {more}。"),
    "next planned": ("Next: go on to the next look; the last one is at {needed} {samples}, {more} more.", "下一步:继续到下一次查看;最后一次在 {needed} {samples},还需 {more}。"),
    "next none": ("The loss is so near to the margin, or so uncertain, that no number of samples can be named.", "损失离界限太近或太不确定,无法给出所需样本数。"),
    "samples": ("samples", "个样本"), "samples each": ("samples of each version", "个样本(每个版本)"), "runs each": ("runs of each version", "次运行(每个版本)"),
    "unbounded": ("unbounded", "无界"), "points": ("points", "个百分点"),
    "versions": ("Versions", "版本"), "version": ("version", "版本"), "n": ("samples", "样本数"), "figure": ("figure", "数值"),
    "interval": ("95 % interval", "95 % 区间"), "device": ("hardware", "硬件"),
    "tests": ("Tests and intervals beside the bound that decides", "除判定所用的界之外的检验与区间"), "test": ("test", "检验"), "p": ("p-value", "p 值"), "statistic": ("statistic", "统计量"),
    "method": ("method", "方法"), "low": ("from", "下限"), "high": ("to", "上限"),
    "looks": ("Looks", "查看"), "look": ("look", "次序"), "fraction": ("share of the plan", "计划占比"), "boundary": ("z to exceed", "须超过的 z"), "spent": ("error rate used", "已用错误率"),
    "notes": ("What to know", "须知"), "how": ("How this was judged", "判定方法"),
    "chart loss": ("Loss", "损失"), "chart loss note": ("right is worse; dashed: the margin; thick: the one-sided bounds that decide", "向右为更差;虚线:容许的损失;粗线:判定所用的单侧界"),
    "decides": ("bounds that decide", "判定所用的界"),
    "chart power": ("Power by number of samples", "功效与样本数"), "chart power note": ("probability to show that the margin is kept; dashed: what was asked for", "证明未超出容许损失的概率;虚线:所要求的功效"),
    "power": ("power", "功效"), "least margin": ("least margin", "可判定的最小容许损失"), "sizes": ("What a number of samples does", "样本数的作用"),
    "design n": ("{n} {samples} show that less than {margin} is lost, with a probability of {power}, if {loss} is lost in truth.", "若真实损失为 {loss},{n} {samples}能以 {power} 的概率证明损失小于 {margin}。"),
    "design n b": ("Version b gets {n} samples: {ratio} for each of version a.", "版本 b 需 {n} 个样本:为版本 a 的 {ratio} 倍。"),
    "design looks": ("It may end at any of {looks} looks; for that it is planned {inflation} times as large as for one look.", "可在 {looks} 次查看中的任何一次结束;为此规模是单次查看的 {inflation} 倍。"),
    "design always": ("It may be looked at after every sample; that takes about {inflation} times the samples of one look, fewer where the versions differ clearly.", "可在每个样本之后查看;约需单次查看的 {inflation} 倍样本,版本差别明显时更少。"),
    "nothing": ("nothing", "零"),
    "assumed discordance": ("Assumed: {value} of the samples are answered differently.", "假定:{value} 的样本答案不同。"),
    "assumed share": ("Assumed: version a gets {value} right.", "假定:版本 a 的正确率为 {value}。"),
    "assumed deviation": ("Assumed: a standard deviation of {value}.", "假定:标准差为 {value}。"),
    "assumed pilot": ("The spread is that of {value} values of an earlier run.", "离散程度取自先前一次运行的 {value} 个值。"),
    "assumed quantile": ("Judged is the quantile {value}.", "判定的是分位数 {value}。"),
    "paired shares": ("pairs of right and wrong on the same samples", "同一批样本上的对错配对"), "shares": ("right and wrong on independent samples", "独立样本上的对错"),
    "paired means": ("means on the same samples", "同一批样本上的均值"), "means": ("means of independent samples", "独立样本的均值"),
    "quantiles": ("quantiles of independent samples", "独立样本的分位数"), "runs": ("runs, each with its own figure", "多次运行,每次一个数值"), "metric": ("a metric over the same samples", "同一批样本上的指标"),
    "how paired shares": ("Both versions answered the same samples, so only those that they answer differently tell them apart. The bounds are Tango's score bounds of paired shares; McNemar's tests beside them ask whether the versions are right equally often, which is another question than whether little is lost.", "两个版本回答同一批样本,只有答案不同的样本能区分它们。界为 Tango 的配对比例得分界;旁边的 McNemar 检验问的是两者正确率是否相同,与损失是否很小是不同的问题。"),
    "how shares": ("Each version answered samples of its own. The bounds are Miettinen and Nurminen's score bounds; Farrington and Manning's test and Newcombe's interval stand beside them. The sizes of the groups were checked against the split that was meant.", "每个版本回答各自的样本。界为 Miettinen–Nurminen 得分界;旁列 Farrington–Manning 检验与 Newcombe 区间。各组样本数已对照预定比例检查。"),
    "how paired means": ("The bounds are Student's t of the differences, sample by sample, or the BCa bootstrap where that was asked for.", "界为逐样本差值的学生 t,或按要求使用 BCa 自助法。"),
    "how means": ("The bounds are Welch's t, or the BCa bootstrap where that was asked for. A series whose neighbours resemble each other counts for as many independent samples as its batch means show.", "界为 Welch t,或按要求使用 BCa 自助法。相邻值相关的序列按批均值折算为独立样本数。"),
    "how quantiles": ("Each version's quantile is bounded by order statistics, whatever the distribution, and the bounds of the difference are put together from these. A series whose neighbours resemble each other counts for fewer samples.", "各版本的分位数用次序统计量定界(不依赖分布),再合成差值的界。相邻值相关的序列按较少的样本计。"),
    "how runs": ("Every run gives one figure; the bounds are Welch's t of these, so that they hold what differs from run to run.", "每次运行给出一个数值;界为这些数值的 Welch t,因而包含运行之间的差异。"),
    "how metric": ("Both versions answered the same samples; the bounds are bootstrapped (BCa) over whole samples.", "两个版本回答同一批样本;界由对整个样本的自助法(BCa)得出。"),
    "stopping once": ("One look. To look again with more samples, plan the trial for it (--stopping): each further look at bounds made for one is another chance to be wrong.", "单次查看。若要用更多样本再次查看,请事先计划(--stopping):用单次的界多次查看会增加出错的机会。"),
    "stopping obrien-fleming": ("It may stop early by alpha spending (Lan and DeMets, O'Brien-Fleming type): hardly any of the error rate is used at first, nearly all is left for the end.", "按 alpha 消耗(Lan–DeMets,O'Brien–Fleming 型)可提前结束:起初几乎不用错误率,几乎全部留到最后。"),
    "stopping pocock": ("It may stop early by alpha spending (Lan and DeMets, Pocock type): the error rate is used about evenly.", "按 alpha 消耗(Lan–DeMets,Pocock 型)可提前结束:错误率大致均匀使用。"),
    "stopping always-valid": ("The bounds hold at every sample at once: it may be looked at and stopped at any time.", "界在每个样本处同时成立:可随时查看和结束。"),
    # notes
    "identical": ("No sample was answered differently: the bounds come from the number of samples alone.", "没有样本答案不同:界仅由样本数决定。"),
    "no-spread": ("Nothing varied: how much the values may vary is not known, and there are no bounds.", "数值没有变化:可能的离散程度未知,因而没有界。"),
    "missing-drop": ("{n} samples that only one version answered were left out, as was asked for. If the hard ones are missing, the loss is larger.", "按要求略去仅一个版本回答的 {n} 个样本。若缺的是难样本,损失会更大。"),
    "missing-wrong": ("{label}: {n} samples without an answer count as wrong.", "{label}:{n} 个没有答案的样本按错误计。"),
    "thinned": ("{label}: the record keeps samples of {n} calls, evenly spaced.", "{label}:记录保留了 {n} 次调用中均匀间隔的样本。"),
    "mixed-hardware": ("Different hardware, as was asked for: {a} and {b}. The loss is that of version and hardware together.", "按要求比较不同硬件:{a} 与 {b}。损失为版本与硬件共同所致。"),
    "series": ("Neighbouring samples resemble each other: {n_a} and {n_b} count for {a} and {b} independent ones.", "相邻样本彼此相关:{n_a} 与 {n_b} 个样本按 {a} 与 {b} 个独立样本计。"),
    "one-run": ("One run of each version: what differs from build to build or from start to start is not in the bounds. Give three records or more of each.", "每个版本只有一次运行:不同构建或启动之间的差异不在界内。请每个版本给出三条以上记录。"),
    "apart": ("The versions were not timed in turns: what changed on the machine between the runs counts as a difference between them.", "两个版本不是交替计时:机器在两次运行之间的变化会计为版本差异。"),
    "broken": ("{n} samples of the candidate gave NaN or infinity.", "候选版本有 {n} 个样本给出 NaN 或无穷。"),
    "over": ("The planned samples are there and the error rate is spent: a further trial needs new samples.", "计划的样本已满,错误率已用尽:再次试验需要新的样本。"),
    "few": ("Groups of fewer than {n} samples say next to nothing: there are no bounds.", "少于 {n} 个样本的组几乎说明不了什么:没有界。"),
    "order": ("Looks suppose that samples come in random order: not sorted by class, difficulty or day.", "多次查看假定样本以随机顺序到来:未按类别、难度或日期排序。"),
    "accuracy-of-records": ("Records hold shares without the samples: the versions are judged as if on independent samples, which needs many more of them. Give outcomes by sample, with ids.", "记录只有比例而没有逐样本结果:按独立样本判定,所需样本多得多。请给出带 id 的逐样本结果。"),
}

TESTS = {"tango": "Tango", "mcnemar-exact": "McNemar, exact", "mcnemar-mid-p": "McNemar, mid-p",
         "farrington-manning": "Farrington and Manning", "sample-ratio": "sample ratio (chi-square)",
         "miettinen-nurminen": "Miettinen and Nurminen", "newcombe": "Newcombe", "welch": "Welch", "student": "Student",
         "bootstrap": "bootstrap (BCa)"}


def word(name: str, lang: str = "en", **values: object) -> str:
    """A text in a language of `words.LANGUAGES`. InputError if there is no such language."""
    return words.text(WORDS, name, lang, values)


def sentence(note: Note, lang: str = "en") -> str:
    """A note as a sentence."""
    return word(note.code, lang, **note.values)
