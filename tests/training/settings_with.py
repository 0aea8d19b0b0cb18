"""Settings of a run with some values."""

from gengeo_hf.training.settings import Settings


def settings_with(**values):
    """Return settings with these values, by `name` or `group__name`; all others are defaults."""
    settings = Settings(output="run")
    for key, value in values.items():
        group, _, name = key.partition("__")
        setattr(getattr(settings, group) if name else settings, name or group, value)
    return settings
