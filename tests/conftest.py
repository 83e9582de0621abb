"""Hypothesis profiles, Triton's interpreter where there is no GPU, and the rule for tests that need one."""

import os
from typing import Any

import pytest
import torch
from hypothesis import settings

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton

settings.register_profile("ci", derandomize=True, deadline=None, max_examples=60)
settings.register_profile("thorough", deadline=None, max_examples=12_000)  # about a million in all
settings.load_profile("ci")  # --hypothesis-profile=thorough chooses the other


@pytest.fixture(scope="session")
def bare_tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tokenizer of every kind, by name; copy it before you change it."""
    from real_tokenizers import MAKERS

    return {name: maker(tmp_path_factory.mktemp(name)) for name, maker in MAKERS.items()}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a gpu test where there is no GPU; fail it where TIMETOK_REQUIRE_CUDA=1 promised one."""
    if item.get_closest_marker("gpu") is None:
        return
    if torch.cuda.is_available():
        return
    if os.environ.get("TIMETOK_REQUIRE_CUDA") == "1":
        pytest.fail("TIMETOK_REQUIRE_CUDA=1, but torch sees no CUDA device", pytrace=False)
    pytest.skip("needs a CUDA device")
