"""The table of `make test-models`: how many causal LMs work, and what holds bare and with the adapter."""

import textwrap

import pytest
import transformers

_TEST = "test_what_the_bare_lm_holds_the_adapter_holds["


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Printed where every type was asked for, not after the few of the fast suite."""
    asked = {
        outcome: [report for report in terminalreporter.stats.get(outcome, []) if _TEST in report.nodeid]
        for outcome in ("passed", "failed", "skipped")
    }
    if not any("slow" in report.keywords for reports in asked.values() for report in reports):
        return
    names = {id(report): report.nodeid.partition(_TEST)[2][:-1] for reports in asked.values() for report in reports}
    tried = asked["passed"] + asked["failed"]
    columns: dict[str, dict[str, tuple[object, object]]] = {}
    for report in tried:
        for invariant, held in report.user_properties:
            columns.setdefault(invariant, {})[names[id(report)]] = held
    write = terminalreporter.write_line
    terminalreporter.section(f"causal LMs of transformers {transformers.__version__}")
    write(f"{len(asked['passed'])} of {len(tried)} causal LMs")
    write("")
    write(f"{'holds on':52}{'bare LM':>9}{'adapter':>9}")
    for invariant, held in columns.items():
        bare, ours = (sum(pair[column] is True for pair in held.values()) for column in (0, 1))
        write(f"{invariant:52}{bare:9}{ours:9}")
    for invariant, held in columns.items():
        lacking = [f"{kind}{_why(*pair)}" for kind, pair in held.items() if pair[0] is not True]
        if lacking:
            write(textwrap.fill(f"not bare: {invariant}: {', '.join(lacking)}", 120, subsequent_indent="    "))
    write("")
    write(f"{len(asked['skipped'])} types that transformers does not build from their own default configuration:")
    for report in asked["skipped"]:
        write(f"    {names[id(report)]}: {report.longrepr[2].partition(': ')[2].partition(': ')[2]}")


def _why(bare: object, ours: object) -> str:
    """The error of the bare LM, where there was one, and whether the adapter works all the same."""
    return (f" ({bare[:80]})" if isinstance(bare, str) else "") + " (adapter only)" * (ours is True)
