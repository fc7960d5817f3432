"""What a reload says of sections that take effect at the next start."""

from __future__ import annotations

import pytest

from stateline.config.schema import Audit, Config, Oidc, Vault
from stateline.ops.reload import FIXED, differences, kept

CHANGED = {
    "oidc": Oidc(issuer="https://a.example", audience=("x",), tenant="acme"),
    "vault": Vault(key_env="A"),
    "audit": Audit(key_env="A"),
}


@pytest.mark.parametrize("section", CHANGED)
def test_who_is_let_in_and_what_opens_secrets_wait_for_a_restart(section: str) -> None:
    old, new = Config(), Config(**{section: CHANGED[section]})  # pyright: ignore[reportArgumentType]
    for before, after in ((old, new), (new, old)):
        found = tuple(differences(before, after))
        assert found == (section,)
        assert section in FIXED
        assert kept(before, after, found) == before
