"""What each option of a build means, in English and Chinese: for documents, the schema and the handbook."""
# ruff: noqa: E501 - a table of texts, whose Chinese characters count as two

from __future__ import annotations

MEANINGS: dict[str, tuple[str, str]] = {
    "model": ("the ONNX model", "ONNX 模型"),
    "output": ("where the plan is written", "计划文件的输出位置"),
    "target": ("what the plan runs on: the CPU, this machine's GPU, or GPUs of a capability", "运行目标:CPU、本机 GPU 或某一计算能力的 GPU"),
    "hardware_compat": ("for GPUs: the one that it was tuned on, or every one of the capability", "对 GPU:仅限调优所用的型号,或该计算能力的所有 GPU"),
    "isa": ("the instruction set that code is generated for", "生成代码所用的指令集"),
    "threads": ("threads that the plan is tuned for", "计划调优所用的线程数"),
    "precision": ("precisions that the tuner may choose from, fp32 always among them", "调优器可选的精度,始终包含 fp32"),
    "force_precision": ("the precision is used even where it is not faster, or emulated", "即使不更快或仅为模拟也使用该精度"),
    "fp32_layers": ("layers that stay in fp32", "保持 fp32 的层"),
    "calib": ("samples that calibration observes", "校准所用的样本"),
    "calib_cache": ("what calibration found, to be read instead of observing again", "校准结果缓存,可代替重新观察"),
    "calib_method": ("how ranges are chosen from what was observed", "由观察值确定范围的方法"),
    "calib_samples": ("calibrate with at most so many samples", "最多用这么多样本校准"),
    "preprocess": ("from an image to a sample", "由图像到样本的预处理"),
    "activations": ("INT8 codes of activations: unsigned (u8) or signed (i8)", "激活值的 INT8 编码:无符号 (u8) 或有符号 (i8)"),
    "prepare": ("what is done to the weights before they are quantized", "量化前对权重的处理"),
    "eval": ("samples that candidates are judged by", "评判候选计划所用的样本"),
    "metric": ("what accuracy is measured by", "衡量精度损失的指标"),
    "max_drop": ("how much may be lost, in the metric's unit; the fastest plan within it is searched", "允许的损失(以指标单位计);在此范围内寻找最快的计划"),
    "report": ("folder for the report of the search", "搜索报告的文件夹"),
    "weights": ("weights of large products are stored in so many bits", "大矩阵乘法权重的存储位宽"),
    "weight_group": ("rows of weights that share a scale (0: all of a column)", "共用一个缩放系数的权重行数(0:整列)"),
    "shapes": ("dimensions of inputs that are fixed", "固定的输入维度"),
    "profiles": ("ranges of dynamic dimensions: the smallest, the one to tune for, the largest", "动态维度的范围:最小、调优、最大"),
    "states": ("outputs that are the next run's inputs, kept by the context", "由上下文保存、作为下一次运行输入的输出"),
    "timing_cache": ("timings of earlier builds, read and added to", "以往构建的计时缓存,读取并补充"),
    "opt_level": ("how much is measured: 0 trusts the cost model, 5 measures everything", "测量多少:0 相信代价模型,5 全部测量"),
    "dump": ("folder for the graph after each pass", "保存每一步之后的图的文件夹"),
}
