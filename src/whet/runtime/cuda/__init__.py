"""Plans on NVIDIA GPUs: the driver, the code of a plan, the libraries that it calls, and their contexts.

Needs `cuda-bindings` (imported when a device is opened) and the driver; cuBLAS and cuDNN where the plan calls them.
"""
