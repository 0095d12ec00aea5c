"""What holds for all tests."""

from hypothesis import settings

# A busy machine is not a fault of the code.
settings.register_profile("evovlm", deadline=None)
settings.load_profile("evovlm")
