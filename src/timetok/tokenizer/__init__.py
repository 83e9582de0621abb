"""Time on any Hugging Face tokenizer. Importing this room does not load torch."""

from timetok.tokenizer.settings import SETTINGS_FILE
from timetok.tokenizer.wrapper import TimeTokenizer

__all__ = ["SETTINGS_FILE", "TimeTokenizer"]
