"""What a malicious release of a package could do, and what of it would be seen: locks, files that run by themselves,
and what all that the server imports reads, writes and connects to while it is imported.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCK: dict[str, Any] = tomllib.loads((ROOT / "uv.lock").read_text())
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
CREDENTIALS = (
    ".aws/credentials", ".aws/config", ".ssh/id_rsa", ".ssh/id_ed25519", ".ssh/config", ".netrc", ".pypirc",
    ".kube/config", ".docker/config.json", ".config/gcloud/application_default_credentials.json",
    ".azure/msal_token_cache.json", ".git-credentials", ".gitconfig", ".env", ".bash_history", ".npmrc",
)  # fmt: skip
"""What the stealer in LiteLLM 1.82.7 and 1.82.8 was after, in the home folder and the folder of the start."""
SECRETS = (
    "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_CLIENT_SECRET",
    "AZURE_OPENAI_API_KEY", "GOOGLE_APPLICATION_CREDENTIALS", "GEMINI_API_KEY", "GITHUB_TOKEN", "PGPASSWORD",
    "DATABASE_URL", "SHOP_TOKEN",
)  # fmt: skip
WATCHED = """
import json, os, pkgutil, sys

seen = {"opened": [], "wrote": [], "connected": [], "started": [], "environ": []}
HOME = os.environ["HOME"]

def hook(event, args):
    if event == "open" and isinstance(args[0], (str, bytes)):
        path = os.path.abspath(os.fsdecode(args[0]))
        if path.startswith(HOME):
            seen["opened"].append(path)
        mode, flags = args[1] or "", args[2] or 0
        writes = any(each in mode for each in "wax+") or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes and not path.startswith("/dev/") and "__pycache__" not in path:
            seen["wrote"].append(path)
    elif event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        seen["connected"].append(repr(args[-1]))
    elif event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork"):
        seen["started"].append(repr(args)[:200])

class Environ(type(os.environ)):
    def __getitem__(self, key):
        seen["environ"].append(os.fsdecode(key))
        return super().__getitem__(key)
    def __iter__(self):
        seen["environ"].append("*")
        return super().__iter__()

os.environ.__class__ = Environ
sys.addaudithook(hook)
if len(sys.argv) > 1:
    exec(sys.argv[1])
else:
    import stateline
    for each in pkgutil.walk_packages(stateline.__path__, "stateline."):
        if not each.name.endswith("__main__"):
            try:
                __import__(each.name)
            except ImportError as error:  # An extra that is not installed here.
                if (error.name or "").startswith("stateline"):
                    raise
os.environ.__class__ = Environ.__mro__[1]
print(json.dumps(seen | {"modules": len(sys.modules)}))
"""


def closure(names: set[str]) -> set[str]:
    """The locked packages that these come with."""
    locked = {each["name"]: each for each in LOCK["package"]}
    found: set[str] = set()
    while names:
        name = names.pop()
        if name not in found:
            found.add(name)
            each = locked[name]
            extras = [one for several in each.get("optional-dependencies", {}).values() for one in several]
            names |= {one["name"] for one in [*each.get("dependencies", []), *extras] if one["name"] in locked}
    return found


SHIPPED = closure({"stateline"})
"""All that an installation with all extras has; `dependency-groups` are for whoever builds it."""


def test_every_dependency_is_locked_with_its_hash() -> None:
    """LiteLLM 1.82.7 and 1.82.8 (MAL-2026-2144): a release that its makers did not make, taken by whoever was not
    pinned to another. Of the lock nothing is taken that is not the file that was locked.
    """
    for each in LOCK["package"]:
        if each["name"] == "stateline":
            assert each["source"] == {"editable": "."}
            continue
        assert each["source"] == {"registry": "https://pypi.org/simple"}, each["name"]
        files = [*each.get("wheels", []), *([each["sdist"]] if "sdist" in each else [])]
        assert files, each["name"]
        for file in files:
            assert re.fullmatch(r"sha256:[0-9a-f]{64}", file["hash"]), file
            assert file["url"].startswith("https://files.pythonhosted.org/"), file
    # Installed as locked, and from wheels alone wherever it is deployed: a source release runs code to be built.
    assert "--locked" in (ROOT / "Makefile").read_text()
    without = [each["name"] for each in LOCK["package"] if each["name"] in SHIPPED and not each.get("wheels")]
    assert without == ["stateline"]
    assert "litellm" not in {each["name"] for each in LOCK["package"]}


def test_nothing_of_ours_runs_when_it_is_installed_or_when_python_starts() -> None:
    """MAL-2026-2144: ``litellm_init.pth`` ran at each start of Python, whatever was started, and once uninstalled."""
    build = PROJECT["tool"]["hatch"]["build"]
    assert PROJECT["build-system"]["requires"] == ["hatchling>=1.27"]
    assert build["targets"]["wheel"] == {"packages": ["src/stateline"]}
    assert "hooks" not in build
    assert not any("hooks" in target for target in build["targets"].values())
    ours = [path for path in (ROOT / "src").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {path.suffix for path in ours} == {".py", ".typed", ".json", ".toml", ".md"}
    names = {path.name for path in [*ours, *ROOT.iterdir()]}
    assert not names & {"setup.py", "setup.cfg", "hatch_build.py", "sitecustomize.py", "usercustomize.py"}
    # What we ship comes with none either.
    looked_at = 0
    for name in SHIPPED - {"stateline"}:
        try:
            files = distribution(name).files or []
        except PackageNotFoundError:
            continue  # For another system, or of an extra that is not here.
        looked_at += 1
        bad = [
            str(file)
            for file in files
            if file.suffix == ".pth" or file.name in ("sitecustomize.py", "usercustomize.py")
        ]
        assert not bad, f"{name}: {bad}"
    assert looked_at > 30


def watched(tmp_path: Path, *code: str) -> dict[str, Any]:
    """What is done while all of Stateline and all that it imports is imported, in a home full of credentials."""
    home = tmp_path / "home"
    for name in CREDENTIALS:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("planted")
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    environment = kept | {"HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"} | dict.fromkeys(SECRETS, "planted")
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *code], cwd=home, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_no_import_reads_a_credential_connects_writes_or_starts_anything(tmp_path: Path) -> None:
    """MAL-2026-2144 (1.82.7): the stealer was in a module that is imported with the proxy. All modules of ours, and
    whatever of others they import, are imported in a home full of credentials, and what is touched is looked at.
    """
    seen = watched(tmp_path)
    assert seen["modules"] > 800
    assert seen["opened"] == []
    assert seen["wrote"] == []
    assert seen["connected"] == []
    assert seen["started"] == []
    assert not set(seen["environ"]) & {*SECRETS, "*"}


@pytest.mark.parametrize(
    ("code", "where"),
    [
        ("open(os.path.expanduser('~/.aws/credentials')).read()", "opened"),
        ("open('.env').read()", "opened"),
        ("open('planted', 'w').close()", "wrote"),
        ("import socket; socket.getaddrinfo('localhost', 80)", "connected"),
        ("import subprocess; subprocess.run(['true'])", "started"),
        ("os.system('true')", "started"),
        ("os.environ.get('OPENAI_API_KEY')", "environ"),
        ("dict(os.environ)", "environ"),
    ],
)
def test_the_watch_sees_what_a_stealer_does(tmp_path: Path, code: str, where: str) -> None:
    """The check above can fail: each of these is seen."""
    assert watched(tmp_path, code)[where]
