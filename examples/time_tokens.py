"""Time tokens on a tokenizer: seconds in, seconds out. Downloads nothing.

Run: python examples/time_tokens.py
"""

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

import timetok

# Any Hugging Face tokenizer will do; this one is made here, of eight words.
words = ["<unk>", "when", "does", "the", "dog", "jump", "from", "to"]
backend = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
backend.pre_tokenizer = Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")

tt = timetok.TimeTokenizer.wrap(tokenizer, T=100)  # adds <t0> ... <t99>
duration = 60.0  # seconds, of the video that is talked about

ids = tt("the dog jump from <12.3> to <30>", duration=duration)["input_ids"]
print("tokens ", tokenizer.convert_ids_to_tokens(ids))
print("seconds", tt.decode(ids, duration))
for span in tt.spans(ids, duration):
    print(f"span    {span.start:.2f} s to {span.end:.2f} s; marks stand {duration / 99:.2f} s apart")
