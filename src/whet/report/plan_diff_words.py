"""What the report of two plans says, by language."""
# ruff: noqa: E501 - a table of texts, whose Chinese characters count as two

from __future__ import annotations

from whet.report import words

WORDS: dict[str, tuple[str, str]] = {
    "title": ("What changed from {a} to {b}", "从 {a} 到 {b} 的变化"),
    "identical": ("The plans are the same, byte for byte of what their hash covers.", "两个计划相同(哈希所覆盖的内容逐字节一致)。"),
    "other model": ("Different models, as was asked for: {a} and {b}. Names that are equal may mean different layers.", "按要求比较不同的模型:{a} 与 {b}。同名的层可能并不相同。"),
    "unknown model": ("A plan does not say which model it was built from: whether both are of one is not known.", "有计划未说明由哪个模型构建:是否同一模型未知。"),
    "faster": ("{b} is {ratio} times as fast as {a} (95 % interval {low} to {high}, {rounds} rounds in turns).", "{b} 的速度是 {a} 的 {ratio} 倍(95 % 区间 {low} 至 {high},交替 {rounds} 轮)。"),
    "slower": ("{b} is slower: {ratio} times the speed of {a} (95 % interval {low} to {high}, {rounds} rounds in turns).", "{b} 更慢:速度是 {a} 的 {ratio} 倍(95 % 区间 {low} 至 {high},交替 {rounds} 轮)。"),
    "as fast": ("Their speed is not told apart: {ratio} (95 % interval {low} to {high}, {rounds} rounds in turns).", "速度无法区分:{ratio}(95 % 区间 {low} 至 {high},交替 {rounds} 轮)。"),
    "layers line": ("Of {n} layers {same} are the same, {changed} run differently, {only_a} are in {a} alone and {only_b} in {b} alone.", "共 {n} 层:{same} 层相同,{changed} 层运行方式不同,{only_a} 层仅在 {a},{only_b} 层仅在 {b}。"),
    "size line": ("The file takes {b_size} instead of {a_size}, weights {b_weights} instead of {a_weights}.", "文件由 {a_size} 变为 {b_size},权重由 {a_weights} 变为 {b_weights}。"),
    "outputs same": ("The outputs are the same, bit for bit.", "输出逐位相同。"),
    "outputs line": ("The outputs differ by {worst} at most ({output}, relative, after the mean is taken off).", "输出最多相差 {worst}({output},减去均值后的相对值)。"),
    "outputs far": ("The output {output} differs in shape or in NaN: it cannot be compared.", "输出 {output} 的形状或 NaN 不同,无法比较。"),
    "not run": ("Speed and outputs were not compared: {why}.", "未比较速度与输出:{why}。"),
    "inputs": ("Inputs: {inputs}.", "输入:{inputs}。"),
    "random": ("Random inputs lie outside of what a quantized model was calibrated for: judge its outputs on data (whet compare --ab A.plan B.plan --eval DATA).", "随机输入超出量化模型的校准范围:请用数据判定其输出(whet compare --ab A.plan B.plan --eval DATA)。"),
    "facts": ("What differs", "差异"), "layers": ("Layers that differ", "有差异的层"), "outputs": ("Outputs", "输出"),
    "hash": ("hash", "哈希"), "model": ("model", "模型"), "precision": ("precision", "精度"), "target": ("built for", "目标"), "threads": ("threads", "线程"),
    "bytes": ("file", "文件"), "weights": ("weights", "权重"), "code": ("code", "代码"), "arena": ("activations", "激活内存"), "launches": ("kernels", "内核数"),
    "layer precisions": ("layers by precision", "各精度层数"), "profile": ("profile", "配置"), "versions": ("versions", "版本"), "signed_by": ("signed by", "签名"),
    "layer": ("layer", "层"), "what": ("differs in", "差异项"), "kind": ("kind", "种类"), "tactic": ("tactic", "策略"), "params": ("parameters", "参数"),
    "tuned": ("tuned, alone", "单独调优"), "only a": ("only in {a}", "仅在 {a}"), "only b": ("only in {b}", "仅在 {b}"),
    "output": ("output", "输出"), "relative": ("relative", "相对"), "centred": ("centred", "去均值"), "largest": ("largest", "最大差"), "agreement": ("same highest", "最大元素一致"),
    "speed": ("Speed", "速度"), "speed note": ("median of a call, in {unit}; shorter is better", "一次调用的中位数,单位 {unit};越短越好"),
    "none": ("nothing", "无"),
}


def word(name: str, lang: str = "en", **values: object) -> str:
    """A text in a language of `words.LANGUAGES`. InputError if there is no such language."""
    return words.text(WORDS, name, lang, values)
