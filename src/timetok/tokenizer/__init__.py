"""Time on any Hugging Face tokenizer. Importing this room does not load torch."""

from timetok.tokenizer.wrapper import SETTINGS_FILE, TimeTokenizer

__all__ = ["SETTINGS_FILE", "TimeTokenizer"]
