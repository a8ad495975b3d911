"""What documents say, in English and Chinese."""
# ruff: noqa: E501 - a table of texts, whose Chinese characters count as two

from __future__ import annotations

from whet.report import words

TEXTS: dict[str, tuple[str, str]] = {
    # headings and columns
    "configuration": ("Configuration", "配置"), "stages": ("Stages that ran", "实际执行的阶段"),
    "figures": ("Precision, speed, accuracy and memory", "精度、速度、准确率与内存"), "calibration": ("Calibration", "校准"),
    "reproduction": ("Building it again", "重新构建"), "parameter": ("parameter", "参数"), "value": ("value", "数值"),
    "meaning": ("meaning", "含义"), "of": ("of", "对象"), "figure": ("figure", "指标"),
    "interval": ("95 % interval", "95 % 区间"), "origin": ("origin", "来源"), "yes": ("yes", "是"), "no": ("no", "否"),
    "to": ("to", "至"), "none": ("none", "无"), "all": ("of", "共"),
    # the head
    "about": ("A plan of {model}, made by whet {version} for {target}; it computes in {compute}.",
              "由 whet {version} 为 {target} 生成的 {model} 计划;计算精度为 {compute}。"),
    "asked unknown": ("The plan does not record what its build was asked: it was made by a whet that did not write that down. What follows is what the plan itself holds.",
                      "该计划没有记录构建时的选项:由未记录此项的 whet 版本生成。以下为计划自身所含内容。"),
    "objects": ("Given as objects in Python, which no file names: {names}.", "在 Python 中以对象形式给出、没有文件名:{names}。"),
    # rows of the configuration that are no options
    "plan.hash": ("the plan's name among plans: the root of its hash tree", "计划的标识:哈希树的根"),
    "model.name": ("the model's graph, as it calls itself", "模型图自身的名称"),
    "model.sha256": ("SHA-256 of the model's bytes and external data", "模型字节及外部数据的 SHA-256"),
    "version": ("version that the plan was built with", "构建计划所用的版本"),
    "arch": ("the processor's architecture", "处理器架构"), "vectors": ("instruction set of the code", "代码的指令集"),
    "features": ("features of the processor that the code needs", "代码所需的处理器特性"),
    "device": ("the GPU that the plan is for", "计划所针对的 GPU"), "driver": ("the driver that it was built with", "构建时的驱动"),
    "library": ("version of a library that its steps call", "其步骤调用的库的版本"),
    "input": ("what a caller gives: element type and shape", "调用者提供的输入:元素类型与形状"),
    "output": ("what a caller gets: element type and shape", "调用者得到的输出:元素类型与形状"),
    "profile": ("range of a dynamic dimension", "动态维度的范围"), "profile value": ("{low} to {high}, tuned at {opt}", "{low} 至 {high},在 {opt} 处调优"),
    "profile.count": ("optimization profiles; the first is shown", "优化配置的个数;此处为第一个"),
    "state": ("an output that the context keeps as the next run's input", "由上下文保存并作为下次输入的输出"),
    "compute": ("precision of products and activations", "乘法与激活的计算精度"), "allowed": ("precisions that were allowed", "允许的精度"),
    "note": ("what became of precisions that were asked for", "所请求精度的处理结果"),
    "layers": ("layers that compute in this precision", "以该精度计算的层数"),
    "step": ("steps of the plan of this kind", "计划中该类步骤的数目"), "plugin": ("a plugin that must be there to load the plan", "加载计划所需的插件"),
    "untuned": ("why nothing was measured", "未进行测量的原因"), "bytes.weights": ("constants", "常量"),
    "bytes.code": ("machine code", "机器码"), "bytes.activations": ("memory between layers, shared", "层间内存(共享后)"),
    "bytes.unshared": ("memory between layers if nothing were shared", "层间内存(不共享时)"),
    "bytes.scratch": ("scratch memory of each thread", "每线程暂存内存"), "signed_by": ("public key of who signed the plan", "签名者的公钥"),
    "size": ("{bytes:,} bytes ({short})", "{bytes:,} 字节({short})"),
    "threads": ("{threads} threads", "{threads} 线程"),
    # stages
    "flow note": ("As the plan records them, with the samples and timings that they read.", "按计划所记录,并标出各阶段读取的样本与计时。"),
    "flow old": ("The plan is of a whet that did not record its stages; these are known from what it holds.", "该计划的 whet 版本未记录各阶段;以下由其内容得知。"),
    "flow config": ("What `whet build` runs for this configuration.", "`whet build` 按此配置执行的阶段。"),
    "read": ("read the model", "读取模型"), "clean": ("clean up, recognize patterns", "清理图并识别模式"), "compress": ("store weights in fewer bits", "压缩权重位宽"),
    "calibrate": ("calibrate", "校准"), "equalize": ("equalize channels", "通道均衡"), "smooth": ("smooth activations", "平滑激活"),
    "round": ("round weights adaptively", "自适应舍入权重"), "bias": ("correct biases", "修正偏置"), "check": ("check outputs in fp16", "检查 fp16 输出"),
    "search": ("search within the budget", "在预算内搜索"), "quantize": ("quantize layers", "量化各层"), "fuse": ("layout, fusion, precision", "布局、融合与精度"),
    "lower": ("lower to steps", "降低为步骤"), "tune": ("choose tactics", "选择实现策略"), "generate": ("generate code", "生成代码"),
    "plan": ("the plan", "计划"), "samples": ("calibration samples", "校准样本"), "cache": ("calibration cache", "校准缓存"),
    "evaluation": ("evaluation samples", "评估样本"), "timings": ("timing cache", "计时缓存"), "object": ("an object in Python", "Python 对象"), "own": ("the user's", "用户的"),
    "n nodes": ("{nodes} nodes (profiles: {profiles})", "{nodes} 个节点(优化配置:{profiles})"), "n passes": ("{passes} passes, {nodes} nodes left", "{passes} 个步骤,剩 {nodes} 个节点"),
    "n samples": ("{samples} samples in {batches} batches, by {method}", "{samples} 个样本,分 {batches} 批,{method} 法"), "n changed": ("{changed} places", "{changed} 处"),
    "n compressed": ("{layers} layers in {bits} bits", "{layers} 层,{bits} 位"), "n checked": ("{samples} samples", "{samples} 个样本"),
    "n quantized": ("{layers} layers in {codes}, {kept} kept", "{layers} 层为 {codes},{kept} 层保留"),
    "n candidates": ("{candidates} candidates, {metric} within {max_drop:g}: {chosen}", "{candidates} 个候选,{metric} 损失不超过 {max_drop:g}:{chosen}"),
    "n launches": ("{passes} passes, {launches} launches in {compute}", "{passes} 个步骤,{launches} 次启动,{compute}"),
    "n steps": ("{steps}", "{steps}"), "n tuned": ("{regions} regions by measured times", "{regions} 个区域,按实测时间"),
    "n partly": ("{regions} regions, {modelled} of them by the cost model", "{regions} 个区域,其中 {modelled} 个按代价模型"),
    "n modelled": ("{regions} regions by the cost model", "{regions} 个区域,按代价模型"), "n kernels": ("{kernels} kernels, {bytes:,} bytes", "{kernels} 个内核,{bytes:,} 字节"),
    # figures
    "not measured": ("not measured", "未测量"), "unbounded": ("too few samples to bound", "样本太少,无法给出区间"),
    "this plan": ("this plan", "本计划"), "at build": ("at build", "构建时"), "measurement": ("measurement", "测量"),
    "setting": ("setting", "条件"), "precision": ("precision", "精度"), "p50": ("latency P50", "延迟 P50"), "p99": ("latency P99", "延迟 P99"),
    "throughput": ("throughput", "吞吐量"), "accuracy": ("accuracy", "准确率"), "memory": ("peak memory", "峰值内存"), "error": ("error of outputs", "输出误差"),
    "against": ("speed against {peer}", "相对 {peer} 的速度"), "loss": ("loss", "损失"), "limit": ("share of the hardware's limit", "达到硬件极限的比例"),
    "of samples": ("{value} ({metric}, {samples:,} samples)", "{value}({metric},{samples:,} 个样本)"),
    "from plan": ("the plan's manifest", "计划的清单"), "from search": ("the build's search, {date}, on {device}", "构建时的搜索,{date},{device}"),
    "from record": ("record {record}, {date}, on {device}", "记录 {record},{date},{device}"), "by tool": ("by {tool}", "由 {tool} 测量"),
    "upper": ("at most {bound} (95 %)", "至多 {bound}(95 %)"),
    "no records": ("No measurement of this plan was given: `whet bench PLAN --json records.json` makes one.", "没有给出本计划的测量:`whet bench PLAN --json records.json` 可得。"),
    "newest": ("Of each setting the newest record; intervals are those of the records.", "每种条件取最新的记录;区间为记录所给。"),
    # calibration
    "not calibrated": ("Nothing was calibrated: no layer of this plan needs ranges of its own.", "未进行校准:本计划没有需要取值范围的层。"),
    "c.method": ("how ranges were chosen", "确定范围的方法"), "c.samples": ("samples that were observed", "观察的样本数"), "c.batches": ("batches of them", "批数"),
    "c.sha256": ("SHA-256 of what calibration found", "校准结果的 SHA-256"), "c.preprocessing": ("from an image to a sample", "由图像到样本"),
    "c.quantized": ("layers in {codes}", "{codes} 的层"), "c.kept": ("stays in a wider precision", "保持更宽的精度"), "c.prepared": ("places of the weights that were prepared", "权重预处理的处数"),
    "c.verdict": ("the verdict on the budget", "预算判定"), "c.fp16": ("not in fp16", "不使用 fp16"), "seen": ("What calibration says of itself:", "校准自述:"), "nothing to say": ("Calibration saw enough of every tensor.", "校准对每个张量的观察都足够。"),
    # reproduction
    "again": ("This command, with the same versions, makes the plan of hash {hash} again where every tactic comes from a complete timing cache:", "在版本相同、计时缓存完整的情况下,此命令重新生成哈希为 {hash} 的计划:"),
    "again old": ("The plan records this command:", "计划记录的命令:"), "again unknown": ("The plan does not record its command line.", "计划没有记录命令行。"),
    "placeholders": ("Words in capitals stand for objects that were given in Python.", "大写单词代表在 Python 中给出的对象。"),
    "searched": ("The search measures its candidates: on another machine, or another day, another plan may win.", "搜索会测量候选:换一台机器或换一天,结果可能不同。"),
    # configurations
    "config title": ("Builds of {file}", "{file} 的构建"), "build": ("Build {build}", "构建 {build}"), "line": ("line", "行"), "default": ("default", "默认"),
    "command": ("The same without the file:", "不用该文件的等价命令:"),
}


def text(name: str, lang: str, **values: object) -> str:
    """A text in a language. InputError if there is no such language."""
    return words.text(TEXTS, name, lang, values)
