"""The configuration: defaults, overrides, and a refusal in one line for everything else."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateline.config import (
    LOCAL_MODEL,
    ConfigError,
    Deployment,
    DeploymentPrice,
    api_key,
    is_loopback,
    load,
    store_url,
)
from stateline.config.schema import SECTIONS
from stateline.core.limits import DRAIN_S, DRAIN_S_MAX

DOCS = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"

OPENAI = """
[[deployments]]
name = "a"
model = "gpt-5"
cloud = "openai"
api_key_env = "OPENAI_API_KEY"
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "stateline.toml"
    file.write_text(text, encoding="utf-8")
    return file


def refusal(folder: Path, text: str, environ: dict[str, str] | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(write(folder, text), environ or {})
    assert "\n" not in str(caught.value)
    assert caught.value.blame == "operator"
    return caught.value


# -- what holds without a word ------------------------------------------------------------------


def test_no_file_means_defaults_and_the_local_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load(None, {})
    assert (config.server.host, config.server.port, config.auth.mode) == ("127.0.0.1", 8700, "open")
    assert config.store.path == Path("stateline.db")
    (local,) = config.deployments
    assert (local.model, local.cloud, local.format, local.auth) == (LOCAL_MODEL, "local", "openai-chat", "none")


def test_the_file_in_the_working_directory_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "[server]\nport = 9000\n")
    assert load(None, {}).server.port == 9000


def test_a_file_without_deployments_serves_the_local_model(tmp_path: Path) -> None:
    assert load(write(tmp_path, "[server]\nport = 1\n"), {}).deployments[0].cloud == "local"


def test_a_named_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file") as caught:
        load(tmp_path / "absent.toml", {})
    assert caught.value.code == "config_missing"


def test_a_folder_is_not_a_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, {})
    assert caught.value.code == "config_unreadable"


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        load(None, {}).server.port = 1  # pyright: ignore[reportAttributeAccessIssue]


# -- deployments ----------------------------------------------------------------------------------


def test_a_cloud_fills_in_what_it_implies(tmp_path: Path) -> None:
    (one,) = load(write(tmp_path, OPENAI), {}).deployments
    assert one.base_url == "https://api.openai.com/v1"
    assert (one.format, one.host, one.upstream_model) == ("openai-responses", "openai", "gpt-5")
    assert (one.priority, one.weight, one.timeout_s) == (1, 1.0, 600.0)


def test_every_key_of_a_deployment_is_kept(tmp_path: Path) -> None:
    text = """
    [[deployments]]
    name = "b"
    model = "gpt-5"
    cloud = "openai-compatible"
    host = "own"
    format = "openai-responses"
    base_url = "http://127.0.0.1:8000/v1"
    region = "eu-1"
    upstream_model = "gpt-5-prod"
    vendor = "openai"
    service_tier = "flex"
    billing_account = "acct-1"
    price = {currency = "EUR", input_per_mtok = 1.10, output_per_mtok = "10", cached_input_per_mtok = 0}
    auth = "none"
    priority = 2
    weight = 3
    timeout_s = 4
    first_byte_s = 3
    stall_s = 2
    max_concurrency = 5
    rpm = 6
    tpm = 7
    """
    (one,) = load(write(tmp_path, text), {}).deployments
    assert one == Deployment(
        name="b",
        model="gpt-5",
        cloud="openai-compatible",
        host="own",
        format="openai-responses",
        base_url="http://127.0.0.1:8000/v1",
        region="eu-1",
        upstream_model="gpt-5-prod",
        vendor="openai",
        service_tier="flex",
        billing_account="acct-1",
        price=DeploymentPrice(
            currency="EUR",
            input_per_mtok=Decimal("1.10"),
            output_per_mtok=Decimal(10),
            cached_input_per_mtok=Decimal(0),
        ),
        auth="none",
        priority=2,
        weight=3.0,
        timeout_s=4.0,
        first_byte_s=3.0,
        stall_s=2.0,
        max_concurrency=5,
        rpm=6,
        tpm=7,
    )


def test_a_local_model_may_be_a_file_of_your_own(tmp_path: Path) -> None:
    text = '[[deployments]]\nname = "l"\nmodel = "mine"\ncloud = "local"\nupstream_model = "models/mine.gguf"\n'
    (one,) = load(write(tmp_path, text), {}).deployments
    assert one.upstream_model == str(tmp_path / "models" / "mine.gguf")


def test_a_key_is_read_from_its_variable(tmp_path: Path) -> None:
    (one,) = load(write(tmp_path, OPENAI), {}).deployments
    assert api_key(one, {"OPENAI_API_KEY": " sk-1\n"}) == "sk-1"
    with pytest.raises(ConfigError, match="OPENAI_API_KEY is not set"):
        api_key(one, {})


def test_a_key_is_read_from_its_file(tmp_path: Path) -> None:
    text = OPENAI.replace('api_key_env = "OPENAI_API_KEY"', 'api_key_file = "key"')
    (one,) = load(write(tmp_path, text), {}).deployments
    with pytest.raises(ConfigError, match="cannot be read"):
        api_key(one, {})
    (tmp_path / "key").write_text("sk-2\n")
    assert api_key(one, {}) == "sk-2"
    (tmp_path / "key").write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        api_key(one, {})


def test_no_key_is_needed_where_none_is_asked_for() -> None:
    assert api_key(load(None, {}).deployments[0], {}) is None


# -- the environment --------------------------------------------------------------------------------


def test_variables_override_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, '[server]\nport = 1\n[store]\nurl_file = "absent"\n')
    environ = {
        "STATELINE_SERVER__PORT": "2",
        "STATELINE_SERVER__CORS_ORIGINS": '["https://a.example"]',
        "STATELINE_STORE__URL": "sqlite:////var/lib/s.db",
        "STATELINE_AUTH__MODE": "keys",
        "STATELINE_LIMITS__STEPS_MAX": "3",
        "STATELINE_UNRELATED": "no section, not ours",
    }
    config = load(file, environ)
    assert (config.server.port, config.server.cors_origins) == (2, ("https://a.example",))
    assert config.store.url == "sqlite:////var/lib/s.db"
    assert (config.auth.mode, config.limits.steps_max) == ("keys", 3)


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("STATELINE_SERVER__PROT", "1", "did you mean `port`?"),
        ("STATELINE_SEVER__PORT", "1", "did you mean `server`?"),
        ("STATELINE_SERVER__PORT", "abc", "STATELINE_SERVER__PORT: expected `int`"),
        ("STATELINE_DEPLOYMENTS__MODEL", "x", "cannot be set by a variable"),
        ("STATELINE_BUDGETS__MODE", "hard", "cannot be set by a variable"),
    ],
)
def test_a_variable_that_is_wrong_is_named(tmp_path: Path, variable: str, value: str, expected: str) -> None:
    error = refusal(tmp_path, "", {variable: value})
    assert variable in str(error)
    assert expected in str(error)


def test_a_text_override_is_never_parsed(tmp_path: Path) -> None:
    environ = {"STATELINE_SERVER__HOST": "127.0.0.1", "STATELINE_STORE__URL_ENV": "DB", "DB": "sqlite:////x.db"}
    assert load(write(tmp_path, ""), environ).store.url == "sqlite:////x.db"


# -- the store --------------------------------------------------------------------------------------


def test_relative_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    config = load(write(tmp_path, '[server]\ntls_cert = "c.pem"\ntls_key = "/k.pem"\n'), {})
    assert config.store.path == tmp_path / "stateline.db"
    assert (config.server.tls_cert, config.server.tls_key) == (str(tmp_path / "c.pem"), "/k.pem")


def test_the_store_may_be_named_by_a_variable_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("sqlite:////one.db\n")
    assert load(write(tmp_path, '[store]\nurl_file = "url"\n'), {}).store.path == Path("/one.db")
    file = write(tmp_path, '[store]\nurl_env = "DB"\n')
    assert load(file, {"DB": "sqlite:///two.db"}).store.path == tmp_path / "two.db"


def test_a_postgres_url_with_a_password_stays_where_it_is_named(tmp_path: Path) -> None:
    assert load(write(tmp_path, '[store]\nurl = "postgresql://u@db/x"\n'), {}).store.url == "postgresql://u@db/x"
    secret = "postgresql://u:hunter2@db/x"
    (tmp_path / "url").write_text(secret + "\n")
    named = load(write(tmp_path, '[store]\nurl_file = "url"\n'), {}).store
    variable = load(write(tmp_path, '[store]\nurl_env = "DB"\n'), {"DB": secret}).store
    for store in (named, variable):
        assert store.path is None
        assert "hunter2" not in repr(store)
        assert store_url(store, {"DB": secret}) == secret
    overridden = load(tmp_path / "stateline.toml", {"DB": secret, "STATELINE_STORE__URL": "postgresql://other/y"}).store
    assert store_url(overridden, {}) == "postgresql://other/y"
    with pytest.raises(ConfigError):
        store_url(variable, {})


# -- refusals -----------------------------------------------------------------------------------------

OIDC = '[auth]\nmode = "oidc"\n[oidc]\nissuer = "https://a.example"\naudience = ["stateline"]\ntenant = "acme"\n'
REFUSALS = [
    ("port = 1\n", "config_unknown_key", "unknown section `port`"),
    ("[server]\nprot = 1\n", "config_unknown_key", "stateline.toml: server.prot: unknown key `prot`; did you mean"),
    ("[server]\nzzz = 1\n", "config_unknown_key", "known are host, port"),
    ("[sever]\n", "config_unknown_key", "did you mean `server`?"),
    ("server = 1\n", "config_invalid", "server: expected a table"),
    ("deployments = 1\n", "config_invalid", "deployments: expected a list"),
    ("deployments = [1]\n", "config_invalid", "deployments[0]: expected a table"),
    ("store = 1\n", "config_invalid", "store: expected a table"),
    ("[server]\nport = 70000\n", "config_invalid", "server.port: expected `int` <= 65535"),
    ('[server]\nport = "1"\n', "config_invalid", "server.port: expected `int`, got `str`"),
    ("[server]\nport = \n", "config_syntax", "not valid TOML"),
    ('[server]\ntls_cert = "c"\n', "config_invalid", "tls_cert and tls_key go together"),
    ('[server]\nhost = "0.0.0.0"\n', "open_off_loopback", 'set auth.mode = "keys"'),
    ('[server]\nhost = "example.com"\n', "open_off_loopback", "stateline keys create"),
    ('[server]\ncors_origins = ["https://a.example/"]\n', "config_invalid", "is not an origin"),
    ('[server]\ncors_origins = ["http://[::1"]\n', "config_invalid", "not a URL"),
    ('[server]\ntrusted_proxies = ["proxy"]\n', "config_invalid", "is not an address"),
    ('[auth]\nmode = "keyz"\n', "config_invalid", 'it may be "open", "keys", "oidc"'),
    ('[auth]\nmode = "oidc"\n', "config_invalid", '"oidc" and the section [oidc] go together'),
    (OIDC.replace('mode = "oidc"', 'mode = "keys"'), "config_invalid", '"oidc" and the section [oidc] go together'),
    (OIDC.replace("https:", "http:"), "config_invalid", "oidc.issuer: not an https URL"),
    (OIDC.replace("https://", "https://u:hunter2@"), "config_secret", "oidc.issuer"),
    (f'{OIDC}jwks_url = "keys.json"\n', "config_invalid", "oidc.jwks_url: not an https URL"),
    (f'{OIDC}tenant_claim = "org"\n', "config_invalid", "set one of tenant"),
    (OIDC.replace('tenant = "acme"', ""), "config_invalid", "set one of tenant"),
    (OIDC.replace("acme", "system"), "config_invalid", 'oidc.tenant: "system" cannot be'),
    (OIDC.replace("acme", "a b"), "config_invalid", 'oidc.tenant: "a b" cannot be'),
    (f'{OIDC}algorithms = ["HS256"]\n', "config_invalid", "oidc.algorithms"),
    (f'{OIDC}algorithms = ["none"]\n', "config_invalid", "oidc.algorithms"),
    (f"{OIDC}algorithms = []\n", "config_invalid", "oidc.algorithms"),
    (OIDC.replace('["stateline"]', "[]"), "config_invalid", "oidc.audience"),
    (f'{OIDC}scope_map = {{ops = ["admin"]}}\n', "config_invalid", "set scope_claim"),
    (f'{OIDC}scope_claim = "scope"\nscope_map = {{ops = ["root"]}}\n', "config_invalid", '"ops" gives "root"'),
    ("[audit]\n", "config_invalid", "set one of key_file and key_env"),
    ("[vault]\n", "config_invalid", "set one of key_file and key_env"),
    ('[vault]\nkey_file = "a"\nkey_env = "A"\n', "config_invalid", "set one of key_file and key_env"),
    ('[vault]\nkey_env = "hunter2 hunter2"\n', "config_secret", "must be the name of an environment variable"),
    (f"{OIDC}leeway_s = 301\n", "config_invalid", "oidc.leeway_s"),
    ("[auth]\nmode = []\n", "config_invalid", "auth.mode"),
    ('[store]\nurl = "postgresql://u@db/x?password=hunter2"\n', "config_secret", "url_env"),
    ('[store]\nurl = "mysql://db/x"\n', "config_invalid", "postgresql://host/name"),
    ('[store]\nurl = "postgresql://u:hunter2@db/x"\n', "config_secret", "url_env"),
    ('[store]\nurl = "sqlite:///:memory:"\n', "config_invalid", "not the URL of a database file"),
    ('[store]\nurl = "stateline.db"\n', "config_invalid", "sqlite:///stateline.db"),
    ('[store]\nurl = "sqlite:///a"\nurl_env = "B"\n', "config_invalid", "url and url_env are given"),
    ('[store]\nurl_env = "ABSENT"\n', "config_secret_missing", "ABSENT is not set"),
    ('[store]\nurl_file = "absent"\n', "config_secret_missing", "cannot be read"),
    ("[store]\nurl = 1\n", "config_invalid", "store.url: expected `str`"),
    ('[store]\npassword = "hunter2"\n', "config_secret", "url_env or url_file"),
    ("[limits]\nsteps_max = 0\n", "config_invalid", "limits.steps_max: 1 at least"),
    ("[contracts]\n", "config_invalid", "contracts: missing key `path`"),
    ("[policy]\n", "config_invalid", "policy: missing key `path`"),
    ('[policy]\npath = "p"\nmode = "observe"\n', "config_invalid", 'it may be "enforce", "log_only"'),
    ('[contracts]\npath = "c"\nmode = "watch"\n', "config_invalid", 'it may be "enforce", "observe"'),
    (f'{OPENAI}[contracts]\npath = "c"\n', "config_invalid", '"a" has no vendor, and contracts are set'),
    (f'{OPENAI}product = "p"\n', "config_invalid", 'deployments[0].product: there is no product "p"'),
    ('[[products]]\nname = "p"\n[[products]]\nname = "p"\n', "config_invalid", 'products[1].name: "p" is taken'),
    ("[retention]\nchunks_s = 0\n", "config_invalid", "retention.chunks_s: expected `int` >= 1"),
]


@pytest.mark.parametrize(("text", "code", "expected"), REFUSALS)
def test_what_cannot_be_used_is_refused_in_one_line(tmp_path: Path, text: str, code: str, expected: str) -> None:
    error = refusal(tmp_path, text)
    assert error.code == code
    assert expected in str(error)
    assert "hunter2" not in str(error)


DEPLOYMENT_REFUSALS = [
    ('name = "a"\nmodel = "m"\n', "config_invalid", "deployments[0]: missing key `cloud`"),
    ('name = "a"\ncloud = "openai"\n', "config_invalid", "deployments[0]: missing key `model`"),
    ('name = "a"\nmodel = "m"\ncloud = "google"\n', "config_invalid", 'or "adc"'),
    ('name = "a"\nmodel = "m"\ncloud = "google"\nauth = "adc"\n', "config_invalid", "/projects/NAME"),
    (
        'name = "a"\nmodel = "m"\ncloud = "google"\nformat = "anthropic-messages"\napi_key_env = "A"\n',
        "config_invalid",
        "Claude is for a project",
    ),
    ('name = "a"\nmodel = "m"\ncloud = "google"\nformat = "openai-chat"\n', "config_invalid", 'speaks "gemini"'),
    ('name = "a"\nmodel = "m"\ncloud = "google"\nregion = "a/b"\napi_key_env = "A"\n', "config_invalid", "region"),
    ('name = "a"\nmodel = "m"\ncloud = "azure"\napi_key_env = "A"\n', "config_invalid", "openai.azure.com"),
    ('name = "a"\nmodel = "m"\ncloud = "openai"\napi_version = "v1"\n', "config_invalid", "azure"),
    ('name = "a"\nmodel = "m"\ncloud = "azure"\napi_version = "1&x"\n', "config_invalid", "api_version"),
    ('name = "a"\nmodel = "m"\ncloud = "acme"\n', "config_invalid", '"openai-compatible"'),
    ('name = "a"\nmodel = "m"\ncloud = "openai"\n', "config_invalid", "no key is named"),
    ('name = "a"\nmodel = "m"\ncloud = "openai"\nprice = 3\n', "config_invalid", "deployments[0].price"),
    ('name = "a"\nmodel = "m"\ncloud = "openai"\nauth = "none"\nrpm = 0\n', "config_invalid", "deployments[0].rpm"),
    ('name = "a"\nmodel = "m"\ncloud = "openai"\nauth = "none"\ntpm = 2000000000\n', "config_invalid", "1000000000"),
    ('name = "a"\nmodel = "m"\ncloud = "openai"\napi_key = "hunter2"\n', "config_secret", "api_key_env"),
    ('name = "a"\nmodel = "m"\ncloud = "openai"\napi_key_env = "sk-hunter2"\n', "config_secret", "name of an env"),
    ('name = "a"\nmodel = "m"\ncloud = "openai"\nformat = "gemini"\n', "config_invalid", '"google" alone'),
    ('name = "a"\nmodel = "m"\ncloud = "openai"\nauth = "entra"\n', "config_invalid", '"azure" alone'),
    ('name = "a"\nmodel = "m"\ncloud = "openai"\nauth = "none"\napi_key_env = "A"\n', "config_invalid", "are given"),
    ('name = "a"\nmodel = "m"\ncloud = "openai-compatible"\nauth = "none"\n', "config_invalid", "needs a base_url"),
    ('name = "a"\nmodel = "m"\ncloud = "local"\nbase_url = "http://x"\n', "config_invalid", "has no URL"),
    ('name = "a"\nmodel = "m"\ncloud = "aws"\n', "config_invalid", 'such as region = "us-east-1"'),
    ('name = "a"\nmodel = "m"\ncloud = "aws"\nregion = "x/y"\n', "config_invalid", "deployments[0].region"),
    ('name = "a"\nmodel = "m"\ncloud = "openai"\nauth = "sigv4"\n', "config_invalid", '"aws" alone'),
    (
        'name = "a"\nmodel = "m"\ncloud = "aws"\nregion = "us-east-1"\nauth = "sigv4"\napi_key_env = "A"\n',
        "config_invalid",
        'or "sigv4"',
    ),
    (
        'name = "a"\nmodel = "m"\ncloud = "openai"\nauth = "none"\nformat = "bedrock-converse"\n',
        "config_invalid",
        "deployments[0].format",
    ),
    ('name = "a"\nmodel = "agent/m"\ncloud = "local"\n', "config_invalid", "agent/"),
    ('name = ""\nmodel = "m"\ncloud = "local"\n', "config_invalid", "deployments[0].name"),
    ('name = "a"\nmodel = "m"\ncloud = "local"\nweight = 0\n', "config_invalid", "deployments[0].weight"),
    ('name = "a"\nmodel = "m"\ncloud = "local"\nvendr = "x"\n', "config_unknown_key", "did you mean `vendor`?"),
]


@pytest.mark.parametrize(("text", "code", "expected"), DEPLOYMENT_REFUSALS)
def test_a_deployment_that_cannot_work_is_refused(tmp_path: Path, text: str, code: str, expected: str) -> None:
    error = refusal(tmp_path, f"[[deployments]]\n{text}")
    assert error.code == code
    assert expected in str(error)
    assert "hunter2" not in str(error)


@pytest.mark.parametrize("url", ["ftp://h/v1", "h/v1", "http://", "http://h/v1?x=1"])
def test_a_base_url_is_an_http_url(tmp_path: Path, url: str) -> None:
    text = f'[[deployments]]\nname = "a"\nmodel = "m"\ncloud = "openai"\nauth = "none"\nbase_url = "{url}"\n'
    assert "not an http or https URL" in str(refusal(tmp_path, text))


def test_bedrock_is_reached_by_its_region_and_signed_unless_a_key_is_named(tmp_path: Path) -> None:
    text = '[[deployments]]\nname = "a"\nmodel = "claude"\ncloud = "aws"\nregion = "eu-west-1"\n'
    (signed,) = load(write(tmp_path, text), {}).deployments
    assert (signed.format, signed.auth, signed.base_url) == ("bedrock-converse", "sigv4", None)
    (keyed,) = load(write(tmp_path, text + 'api_key_env = "AWS_BEARER_TOKEN_BEDROCK"\n'), {}).deployments
    assert keyed.auth is None


def test_a_base_url_holds_no_password(tmp_path: Path) -> None:
    text = '[[deployments]]\nname = "a"\nmodel = "m"\ncloud = "openai"\nauth = "none"\nbase_url = "http://u:p@h/v1"\n'
    assert refusal(tmp_path, text).code == "config_secret"


def test_two_deployments_of_one_name_are_refused(tmp_path: Path) -> None:
    assert '"a" is taken' in str(refusal(tmp_path, OPENAI * 2))


def test_keys_make_any_address_fit(tmp_path: Path) -> None:
    text = '[server]\nhost = "0.0.0.0"\ntrusted_proxies = ["10.0.0.0/8", "::1"]\ncors_origins = ["*"]\n'
    assert load(write(tmp_path, text + '[auth]\nmode = "keys"\n'), {}).server.host == "0.0.0.0"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *((host, True) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost")),
        *((host, False) for host in ("0.0.0.0", "::", "10.0.0.1", "localhost.example.com", "")),
    ],
)
def test_loopback_is_known_by_its_address(host: str, *, expected: bool) -> None:
    assert is_loopback(host) is expected


KEYS = [key for section in SECTIONS.values() for key in section.__struct_fields__]
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x7f"), max_size=9)
VALUES = st.one_of(st.integers(-5, 99999), TEXTS, st.booleans(), st.floats(), st.lists(st.integers()))
TABLES = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4)


def toml(value: object) -> str:
    """A value as TOML writes it in one line."""
    match value:
        case dict():
            entries = cast("dict[str, object]", value).items()
            return f"{{{', '.join(f'{key} = {toml(one)}' for key, one in entries)}}}"
        case list():
            return f"[{', '.join(toml(one) for one in cast('list[object]', value))}]"
        case bool() | str():
            return json.dumps(value, ensure_ascii=False)
        case _:
            return repr(value)


@given(st.dictionaries(st.sampled_from([*SECTIONS, "other"]), st.one_of(TABLES, VALUES, st.lists(TABLES, max_size=2))))
def test_any_table_loads_or_is_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, tables: dict[str, object]
) -> None:
    file = tmp_path_factory.getbasetemp() / "stateline.toml"
    file.write_text("".join(f"{key} = {toml(value)}\n" for key, value in tables.items()), encoding="utf-8")
    line = ""
    try:
        load(file, {})
    except ConfigError as error:
        assert error.code != "config_syntax", error  # noqa: PT017 - most tables are fine
        line = str(error)
    assert "\n" not in line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0.0),
        ('host = "::1"', 0.0),
        ('host = "0.0.0.0"', DRAIN_S),
        ('host = "0.0.0.0"\ndrain_s = 0', 0.0),
        (f"drain_s = {DRAIN_S_MAX}", DRAIN_S_MAX),
    ],
)
def test_a_stop_drains_where_others_may_balance_their_load(tmp_path: Path, text: str, expected: float) -> None:
    file = write(tmp_path, f'[auth]\nmode = "keys"\n[server]\n{text}\n')
    assert load(file, {}).server.drains_for_s == expected


def test_a_drain_has_its_bound(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"server\.drain_s"):
        load(write(tmp_path, f"[server]\ndrain_s = {DRAIN_S_MAX + 1}\n"), {})


def test_the_folder_of_policies_is_beside_the_file(tmp_path: Path) -> None:
    assert load(write(tmp_path, ""), {}).policy is None
    policy = load(write(tmp_path, '[policy]\npath = "p"\n'), {"STATELINE_POLICY__MODE": "log_only"}).policy
    assert policy is not None
    assert (Path(policy.path), policy.mode) == (tmp_path / "p", "log_only")


def test_contracts_and_products_are_read_and_their_folder_is_beside_the_file(tmp_path: Path) -> None:
    text = f"""{OPENAI}vendor = "openai"
product = "gpt-5"
data_zone = "eu"
accelerator = "nvidia-h100"
[[products]]
name = "gpt-5"
shipped_on = ["azure"]
[contracts]
path = "contracts/"
posture = "microsoft"
"""
    config = load(write(tmp_path, text), {"STATELINE_CONTRACTS__MODE": "observe"})
    assert config.contracts is not None
    assert Path(config.contracts.path) == tmp_path / "contracts"
    assert (config.contracts.posture, config.contracts.mode) == ("microsoft", "observe")
    (product,), (deployment,) = config.products, config.deployments
    assert (product.shipped_on, product.declined_by) == (("azure",), ())
    assert (deployment.data_zone, deployment.accelerator, deployment.channel) == ("eu", "nvidia-h100", "direct")


def test_the_sandbox_is_off_and_its_workspaces_are_beside_the_file(tmp_path: Path) -> None:
    assert not load(write(tmp_path, ""), {}).sandbox.enabled
    sandbox = load(write(tmp_path, "[sandbox]\nenabled = true\nmemory_mb = 64\n"), {}).sandbox
    assert (sandbox.enabled, sandbox.path, sandbox.memory_mb) == (True, str(tmp_path / "workspaces"), 64)
    with pytest.raises(ConfigError, match="memory_mb"):
        load(write(tmp_path, "[sandbox]\nmemory_mb = 63\n"), {})


def test_the_local_model_needs_no_word_about_its_vendor(tmp_path: Path) -> None:
    (local,) = load(write(tmp_path, '[contracts]\npath = "c"\n'), {}).deployments
    assert local.vendor == "qwen"


def test_the_issuer_of_tokens_is_configured(tmp_path: Path) -> None:
    config = load(write(tmp_path, f'{OIDC}scope_claim = "scp"\nscope_map = {{ops = ["admin"]}}\nleeway_s = 1.5\n'), {})
    assert config.oidc is not None
    assert (config.oidc.scope_map, config.oidc.leeway_s, config.oidc.keys) == ({"ops": ("admin",)}, 1.5, False)
    on_loopback = load(write(tmp_path, OIDC.replace("https://a.example", "http://127.0.0.1:9/x")), {})
    assert on_loopback.oidc is not None
    with pytest.raises(ConfigError, match="did you mean `audience`"):
        load(write(tmp_path, f'{OIDC}audiences = "x"\n'), {})


# -- the documentation --------------------------------------------------------------------------------


def documented() -> dict[str, dict[str, str]]:
    """Section -> key -> the default as docs/configuration.md gives it."""
    found: dict[str, dict[str, str]] = {}
    section = ""
    for line in DOCS.read_text(encoding="utf-8").splitlines():
        if heading := re.match(r"## (?:\[+(\w+)\]+|Errors)", line):
            section = heading[1] or ""
        elif section and (row := re.match(r"\| `(\w+)` \| [^|]+ \| ([^|]+) \|", line)):
            found.setdefault(section, {})[row[1]] = row[2].strip()
    return found


def test_every_key_is_documented_and_every_documented_key_exists() -> None:
    assert {section: set(keys) for section, keys in documented().items()} == {
        section: set(struct.__struct_fields__) for section, struct in SECTIONS.items()
    }


def test_documented_defaults_are_the_defaults() -> None:
    for section, struct in SECTIONS.items():
        for field in msgspec.structs.fields(struct):
            written = documented()[section][field.name]
            if field.required:
                assert written in ("required", "as `cloud`", "as `model`", "by cloud", "what it covers"), field.name
            elif field.default_factory is not msgspec.NODEFAULT:
                assert written == f"`{msgspec.json.encode(field.default_factory()).decode()}`", field.name
            elif field.default is None:
                assert written in ("none", "by cloud"), field.name
            else:
                assert written == f"`{msgspec.json.encode(field.default).decode()}`", field.name


def test_every_error_code_is_documented() -> None:
    source = "".join(path.read_text() for path in Path(load.__code__.co_filename).parent.glob("*.py"))
    codes = set(re.findall(r'ConfigError\(\s*"(\w+)"', source))
    table = DOCS.read_text(encoding="utf-8").partition("## Errors")[2]
    assert codes == set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))


def test_the_example_loads(tmp_path: Path) -> None:
    example = re.search(r"```toml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None
    assert [one.priority for one in load(write(tmp_path, example[1]), {}).deployments] == [1, 2]
