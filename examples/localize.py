"""When does it happen? The bundled model on the bundled clip, from Python.

Run: python examples/localize.py
"""

import timetok
from timetok.lita.answer import load_sample

video, question, truth = load_sample()
answer = timetok.localize(video, question)
print(question)
for span in answer.spans:
    print(f"{span.start:.2f} s to {span.end:.2f} s (true: {truth.start:.2f} s to {truth.end:.2f} s)")
