"""When does it happen? The bundled model on the bundled clip, from Python.

Run: python examples/localize.py
"""

import timetok
from timetok.lita.answer import load_sample

sample = load_sample()
answer = timetok.localize(sample.path, sample.question)
print(sample.question)
for span in answer.spans:
    print(f"{span.start:.2f} s to {span.end:.2f} s (true: {sample.span.start:.2f} s to {sample.span.end:.2f} s)")
