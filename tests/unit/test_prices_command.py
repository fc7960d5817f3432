"""`stateline prices`: what deployments cost, catalogues that are brought, and differences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from stateline.cli import app
from stateline.core.errors import StatelineError

CONFIG = """
[prices]
path = "prices"

[[deployments]]
name = "near"
model = "gpt-5.5"
cloud = "openai"
auth = "none"

[[deployments]]
name = "own"
model = "m"
cloud = "openai-compatible"
base_url = "http://127.0.0.1:1/v1"
region = "here"
auth = "none"

[[deployments]]
name = "home"
model = "q"
cloud = "local"
"""

ENTRY = {
    "litellm_provider": "openai",
    "mode": "chat",
    "input_cost_per_token": 1.25e-06,
    "output_cost_per_token": 1e-05,
}


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    monkeypatch.chdir(tmp_path)
    Path("stateline.toml").write_text(CONFIG)
    Path("prices").mkdir()


def run(*args: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["prices", *args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


def run_json(*args: str, code: int = 0) -> dict[str, Any]:
    return json.loads(run(*args, "--json", code=code))


def test_show_names_the_price_the_source_and_what_is_unpriced() -> None:
    out = run("show", "--on", "2026-11-26")
    assert "near: gpt-5.5 on openai\n  default: USD 5 in, 30 out, 0.5 cached; above 272000 input tokens" in out
    assert "\n    gpt-5.5: genai-prices 0.2.3, read 2026-11-26: https://" in out
    assert "own: m on openai-compatible in here\n  unpriced: it takes calls that no hard budget covers" in out
    assert "home: q on local\n  default: USD 0 in, 0 out, a million tokens\n    q: runs here" in out


def test_show_prints_all_of_a_price_for_programs() -> None:
    Path("prices/own.toml").write_text(
        '[[prices]]\ncloud = "openai-compatible"\nmodel = "m"\nregion = "here"\ncurrency = "EUR"\n'
        'input_per_mtok = 1.5\nper_call = 0.01\nsince = 2026-01-01\nuntil = 2027-01-01\nsource = "us"\n'
    )
    found = run_json("show", "m", "--on", "2026-11-26")
    (own,) = found["deployments"]
    assert (found["on"], found["unpriced"], own["name"], own["priced"]) == ("2026-11-26", "unbudgeted", "own", True)
    tier = own["tiers"]["default"]
    assert (tier["currency"], tier["per_call"], tier["source"], tier["since"]) == ("EUR", "0.01", "us", "2026-01-01")
    assert tier["rates"] == [{"input": "1.5"}]
    assert tier["tariff"].startswith("trf_")
    said = run("show", "own", "--on", "2026-11-26")
    assert (
        "EUR 1.5 in, 0 out; 0.01 a call, a million tokens\n    m at here, from 2026-01-01, until 2027-01-01: us" in said
    )
    assert run_json("show", "m", "--on", "2027-01-01")["deployments"][0]["priced"] is False


def test_show_refuses_what_is_not_there() -> None:
    with pytest.raises(StatelineError, match="no deployment has the model or the name absent"):
        run("show", "absent")
    with pytest.raises(StatelineError, match="--on tomorrow: not a day"):
        run("show", "--on", "tomorrow")


def test_a_catalogue_is_brought_into_a_file_that_counts() -> None:
    entries = {"m": ENTRY, "gpt-5.5": ENTRY, "dall-x": {**ENTRY, "mode": "image_generation"}}
    entries |= {f"x{n}": {**ENTRY, "mode": f"mode{n}"} for n in range(15)}
    entries["m2"] = {**ENTRY, "input_cost_per_audio_token": 1e-05}
    entries |= {f"y{n}": {**ENTRY, "mode": "mode0"} for n in range(5)}
    Path("c.json").write_text(json.dumps(entries))
    said = run("import", "--from", "litellm", "c.json", "-o", "prices/litellm.json", "--on", "2026-11-26")
    assert "3 prices in prices/litellm.json\nleft out (21):\n  it is of the mode mode0: x0, y0, y1 and 3 more" in said
    assert "4 more reasons: --json lists all" in said
    assert "brought in part (1):\n  input_cost_per_audio_token is left out: such tokens count as text: m2\n" in said
    assert "default: USD 1.25 in, 10 out, a million tokens\n    gpt-5.5: LiteLLM, read 2026-11-26" in run("show")
    found = run_json("import", "--from", "litellm", "c.json")
    assert (found["prices"], found["written"], len(found["skipped"]), len(found["noted"])) == (3, None, 21, 1)


def test_a_catalogue_goes_to_standard_output_where_no_file_is_named() -> None:
    genai = [{"id": "openai", "models": [{"id": "m", "match": {"equals": "m"}, "prices": {"input_mtok": 2}}]}]
    Path("g.json").write_text(json.dumps(genai))
    result = CliRunner().invoke(app, ["prices", "import", "--from", "genai-prices", "g.json", "--on", "2026-11-26"])
    assert json.loads(result.stdout) == {
        "prices": [
            {
                "cloud": "openai",
                "model": "m",
                "currency": "USD",
                "input_per_mtok": "2",
                "source": "genai-prices, read 2026-11-26",
            }
        ]
    }
    assert result.stderr == "1 prices\n"


def test_a_half_downloaded_catalogue_changes_nothing() -> None:
    Path("prices/litellm.json").write_text('{"prices": []}')
    text = json.dumps({"m": ENTRY, "n": ENTRY})
    for end in range(len(text) - 1):
        Path("c.json").write_text(text[:end])
        with pytest.raises(StatelineError, match=r"c\.json: not valid JSON") as caught:
            run("import", "--from", "litellm", "c.json", "-o", "prices/litellm.json")
        assert "\n" not in str(caught.value)
    assert Path("prices/litellm.json").read_text() == '{"prices": []}'
    assert [each.name for each in Path("prices").iterdir()] == ["litellm.json"]


def test_differences_are_listed_and_are_exit_1() -> None:
    Path("a.json").write_text(json.dumps({"m": ENTRY, "n": ENTRY, "same": ENTRY}))
    dearer = {**ENTRY, "output_cost_per_token": 1.1e-05}
    tier = {"input_cost_per_token_flex": 1e-06, "output_cost_per_token_flex": 1e-06}
    zone = {"regional_processing_uplift_multiplier_eu": 1.1}
    Path("b.json").write_text(json.dumps({"m": {**dearer, **tier, **zone}, "same": ENTRY}))
    said = run("compare", "a.json", "b.json", code=1)
    assert said == (
        "m on openai: output 10 and 11; reasoning 10 and 11\n"
        "2 in both, of which 1 differ; 1 in the first alone, 3 in the second alone\n"
    )
    said = run("compare", "a.json", "b.json", "--all", code=1)
    assert "n on openai: only in the first\n" in said
    assert "m on openai in eu, tier flex: only in the second\n" in said
    found = run_json("compare", "a.json", "b.json", code=1)
    assert (found["both"], found["differ"], found["first_alone"], found["second_alone"]) == (2, 1, 1, 3)
    assert found["differences"][0]["amounts"][0] == {"what": "output", "above": 0, "first": "10", "second": "11"}
    assert run("compare", "a.json", "a.json").startswith("3 in both, of which 0 differ")
    row = {"cloud": "openai", "model": "same", "currency": "EUR", "input_per_mtok": "1.25", "output_per_mtok": "10"}
    Path("c.json").write_text(json.dumps({"prices": [row]}))
    assert "same on openai: another currency\n" in run("compare", "a.json", "c.json", code=1)
