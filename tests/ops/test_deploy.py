"""What is in `deploy/`: it parses, fits together, and holds what a careful operator looks for."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import tomllib
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from tests.ops.gotemplate import Chart, Refused
from tests.postgres import ask

from stateline import __version__
from stateline.config import load
from stateline.core.limits import SHUTDOWN_GRACE_S
from stateline.stores.postgres import open_postgres, walls
from stateline.testing.postgres_server import PostgresServer

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
HELM = DEPLOY / "helm" / "stateline"
UID = 10001


def usable(text: str, tmp_path: Path, **environ: str) -> Any:
    """A configuration of ours, loaded as the server would."""
    file = tmp_path / "stateline.toml"
    file.write_text(text)
    return load(file, environ)


# -- the image -----------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.M).replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def test_the_image_is_built_in_one_stage_and_runs_in_another_without_tools_or_root() -> None:
    found = instructions()
    stages = [rest for word, rest in found if word == "FROM"]
    assert len(stages) == 2
    assert stages[0].endswith(" AS build")
    assert all(":${PYTHON}-slim" in stage for stage in stages)
    last = found[[at for at, each in enumerate(found) if each[0] == "FROM"][-1] :]
    commands = " ".join(rest for word, rest in last if word == "RUN")
    assert not re.search(r"apt-get|pip |uv |gcc|curl", commands)
    assert ("USER", f"{UID}:{UID}") in last
    # Nothing that needs root comes after the user is changed.
    after = [word for word, _ in last[last.index(("USER", f"{UID}:{UID}")) :]]
    assert "RUN" not in after
    assert "COPY" not in after
    assert ("STOPSIGNAL", "SIGTERM") in last
    assert ("EXPOSE", "8700") in last
    health = next(rest for word, rest in last if word == "HEALTHCHECK")
    assert "/healthz" in health
    assert json.loads(next(rest for word, rest in last if word == "ENTRYPOINT")) == ["stateline"]
    assert json.loads(next(rest for word, rest in last if word == "CMD")) == ["serve"]


def test_the_image_listens_everywhere_only_with_keys(tmp_path: Path) -> None:
    env = " ".join(rest for word, rest in instructions() if word == "ENV")
    variables = dict(part.split("=", 1) for part in env.split() if part.startswith("STATELINE_"))
    config = usable("", tmp_path, **variables)
    assert (config.server.host, config.auth.mode) == ("0.0.0.0", "keys")


def test_no_instruction_is_bad_practice() -> None:
    """What hadolint would say first."""
    for word, rest in instructions():
        assert word not in ("ADD", "MAINTAINER")
        assert not re.search(r"\bsudo\b|:latest\b", rest)
        if word == "RUN" and "pip install" in rest:
            assert "--no-cache-dir" in rest
            assert re.search(r"uv>=", rest)
        if word in ("CMD", "ENTRYPOINT"):
            assert rest.startswith("[")
        if word == "WORKDIR":
            assert rest.startswith("/")


def test_the_builder_sees_the_sources_and_nothing_else() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = {
        source
        for word, rest in instructions()
        if word == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    }
    assert copied == allowed
    assert all((ROOT / name).exists() for name in allowed)


# -- compose -------------------------------------------------------------------------------------------


def test_the_compose_file_has_a_server_and_a_database_with_secrets_by_file() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    server, database = compose["services"]["stateline"], compose["services"]["postgres"]
    assert server["build"] == {"context": "..", "dockerfile": "deploy/Dockerfile"}
    assert server["read_only"] is True
    assert server["cap_drop"] == ["ALL"]
    assert server["depends_on"]["postgres"]["condition"] == "service_healthy"
    assert server["ports"] == ["127.0.0.1:8700:8700"]
    assert "pg_isready" in " ".join(database["healthcheck"]["test"])
    assert database["environment"]["POSTGRES_PASSWORD_FILE"] == "/run/secrets/postgres_password"
    for service in (server, database):
        assert set(service["secrets"]) <= set(compose["secrets"])
        for volume in service["volumes"]:
            assert volume.split(":")[0] in compose["volumes"]
    for secret in compose["secrets"].values():
        assert secret["file"].startswith("./secrets/")
    assert all((DEPLOY / config["file"]).is_file() for config in compose["configs"].values())
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert "/deploy/secrets/" in ignored


def test_the_database_of_the_compose_file_has_an_ordinary_role_for_servers(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    secret = tmp_path / "password"
    secret.write_text("it's long and random\n")
    asyncio.run(ask(postgres.url(), lambda db: db.execute("CREATE DATABASE composed")))
    settings = {"PGHOST": str(postgres.folder), "PGPORT": str(postgres.port), "POSTGRES_DB": "composed"}
    environment = os.environ | settings | {"POSTGRES_PASSWORD_FILE": str(secret)}
    subprocess.run(["bash", "-eu", str(DEPLOY / "postgres-role.sh")], env=environment, check=True)
    url = postgres.url("composed").replace("//postgres@", "//stateline@")

    async def stands() -> walls.State | None:
        await (await open_postgres(url)).close()
        return await ask(url, walls.state)

    found = asyncio.run(stands())
    assert found is not None
    assert (found.role, found.exempt, found.gaps) == ("stateline", False, ())


def test_the_configuration_of_the_compose_file_is_valid_and_its_stop_is_long_enough(tmp_path: Path) -> None:
    config = usable((DEPLOY / "stateline.toml").read_text(), tmp_path)
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    grace_s = int(compose["services"]["stateline"]["stop_grace_period"].removesuffix("s"))
    assert grace_s > config.server.drains_for_s + SHUTDOWN_GRACE_S + 5
    assert config.auth.mode == "keys"
    secrets = {f"/run/secrets/{name}" for name in compose["services"]["stateline"]["secrets"]}
    assert {one.api_key_file for one in config.deployments} <= secrets


# -- the unit ------------------------------------------------------------------------------------------


def unit() -> ConfigParser:
    parser = ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / "stateline.service")
    return parser


def test_the_unit_stops_gently_reloads_and_may_write_only_its_state() -> None:
    service = unit()["Service"]
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert service["KillSignal"] == "SIGTERM"
    assert int(service["TimeoutStopSec"]) > 10 + SHUTDOWN_GRACE_S
    for key, value in {
        "DynamicUser": "yes",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "PrivateTmp": "yes",
        "NoNewPrivileges": "yes",
        "CapabilityBoundingSet": "",
        "UMask": "0077",
        "StateDirectory": "stateline",
        "Restart": "always",
    }.items():
        assert service[key] == value, key


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not here")
    program = tmp_path / "stateline"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    file = tmp_path / "stateline.service"
    file.write_text((DEPLOY / "stateline.service").read_text().replace("/opt/stateline/bin/stateline", str(program)))
    done = subprocess.run([analyze, "verify", file], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "")


# -- the chart -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chart() -> Chart:
    return Chart(HELM)


def pod(rendered: dict[str, Any]) -> Any:
    return rendered["deployment.yaml"]["spec"]["template"]["spec"]


def test_the_chart_is_of_this_version_and_its_values_fit_their_schema(chart: Chart) -> None:
    assert chart.about["appVersion"] == __version__
    schema = json.loads((HELM / "values.schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.validate(chart.values, schema)
    assert set(schema["properties"]) == {*chart.values, "global"}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**chart.values, "replicas": 3}, schema)


def test_the_chart_renders_what_it_says(chart: Chart) -> None:
    rendered = chart.render()
    kinds = {name: (each["apiVersion"], each["kind"]) for name, each in rendered.items()}
    assert kinds == {
        "configmap.yaml": ("v1", "ConfigMap"),
        "deployment.yaml": ("apps/v1", "Deployment"),
        "pdb.yaml": ("policy/v1", "PodDisruptionBudget"),
        "pvc.yaml": ("v1", "PersistentVolumeClaim"),
        "service.yaml": ("v1", "Service"),
    }
    ingress = chart.render(ingress={"enabled": True, "host": "x.example.com", "tlsSecret": "tls"})["ingress.yaml"]
    assert ingress["spec"]["rules"][0]["host"] == "x.example.com"
    assert ingress["spec"]["tls"] == [{"hosts": ["x.example.com"], "secretName": "tls"}]
    labels = rendered["deployment.yaml"]["spec"]["selector"]["matchLabels"]
    assert rendered["service.yaml"]["spec"]["selector"] == labels
    assert rendered["pdb.yaml"]["spec"]["selector"]["matchLabels"] == labels
    assert labels.items() <= rendered["deployment.yaml"]["spec"]["template"]["metadata"]["labels"].items()


def test_the_configuration_of_the_chart_is_valid(chart: Chart, tmp_path: Path) -> None:
    rendered = chart.render()
    [container] = pod(rendered)["containers"]
    variables = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    config = usable(rendered["configmap.yaml"]["data"]["stateline.toml"], tmp_path, **variables)
    assert (config.server.host, config.auth.mode) == ("0.0.0.0", "keys")
    assert config.server.port == container["ports"][0]["containerPort"]
    assert config.server.drains_for_s == chart.values["drainSeconds"]
    named = {each["name"] for each in container["env"] if "valueFrom" in each}
    assert {one.api_key_env for one in config.deployments} == named


def test_the_pod_is_not_root_and_writes_only_where_it_must(chart: Chart) -> None:
    spec = pod(chart.render(secretFiles="keys"))
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == UID
    assert spec["automountServiceAccountToken"] is False
    [container] = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    volumes = {each["name"] for each in spec["volumes"]}
    assert {each["name"] for each in container["volumeMounts"]} == volumes
    writable = {each["mountPath"] for each in container["volumeMounts"] if not each.get("readOnly")}
    assert writable == {"/var/lib/stateline", "/tmp"}


def test_a_pod_has_time_to_drain_and_is_asked_how_it_is(chart: Chart) -> None:
    spec = pod(chart.render())
    [container] = spec["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["startupProbe"]["httpGet"]["path"] == "/healthz"
    wait_s = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    drain_s = chart.values["drainSeconds"]
    assert spec["terminationGracePeriodSeconds"] > wait_s + drain_s + SHUTDOWN_GRACE_S + 2
    # Not ready within the drain, even if a probe has just gone well.
    probe = container["readinessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] < drain_s
    with pytest.raises(Refused, match="terminationGracePeriodSeconds"):
        chart.render(terminationGracePeriodSeconds=25)


def test_a_sqlite_database_gets_one_pod(chart: Chart) -> None:
    assert chart.render()["deployment.yaml"]["spec"]["strategy"]["type"] == "Recreate"
    with pytest.raises(Refused, match="replicaCount"):
        chart.render(replicaCount=2)
    shared = chart.render(replicaCount=2, persistence={"enabled": False})
    assert "pvc.yaml" not in shared
    assert {"name": "data", "emptyDir": {}} in pod(shared)["volumes"]


def test_every_toml_in_the_folder_parses() -> None:
    for path in DEPLOY.rglob("*.toml"):
        tomllib.loads(path.read_text())
