from hypothesis import settings

settings.register_profile("npu", max_examples=30, deadline=None)
settings.load_profile("npu")
