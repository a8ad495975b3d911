"""Signatures: only what the key's holder signed is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_plans import chain

import whet
from whet.errors import OutputError, PlanFormatError, SignatureError
from whet.plan import Plan, generate_keys, sign, write

pytest.importorskip("cryptography")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(chain(trailer={"built": "today"}), tmp_path / "a.plan")
    return tmp_path / "a.plan"


def test_a_signed_plan_loads_with_its_key_in_every_form(path: Path, tmp_path: Path) -> None:
    private, public = generate_keys()
    before = Plan.open(path)
    sign(path, private)
    after = Plan.open(path)
    assert after.hash == before.hash
    assert after.evidence == {"built": "today"}
    raw = bytes.fromhex(after.summary()["signed_by"])
    (tmp_path / "key.pem").write_text(public)
    (tmp_path / "key.hex").write_text(raw.hex() + "\n")
    for key in (public, raw, raw.hex(), tmp_path / "key.pem", str(tmp_path / "key.hex")):
        whet.load(path, require_key=key).close()


def test_an_unsigned_plan_and_another_key_are_refused(path: Path) -> None:
    private, public = generate_keys()
    other = generate_keys()[1]
    with pytest.raises(SignatureError, match="not signed"):
        whet.load(path, require_key=public)
    sign(path, private)
    with pytest.raises(SignatureError, match="another key"):
        whet.load(path, require_key=other)
    whet.load(path).close()


def test_a_signature_does_not_carry_over_to_another_plan(path: Path, tmp_path: Path) -> None:
    private, public = generate_keys()
    sign(path, private)
    write(chain(steps=2), tmp_path / "b.plan")
    signed, other = path.read_bytes(), (tmp_path / "b.plan").read_bytes()
    body_a, body_b = (int.from_bytes(r[16:24], "little") for r in (signed, other))
    (tmp_path / "c.plan").write_bytes(other[:body_b] + signed[body_a:])
    with pytest.raises(SignatureError, match="false"):
        whet.load(tmp_path / "c.plan", require_key=public)


def test_a_damaged_plan_is_not_signed(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[5000] ^= 1
    path.write_bytes(raw)
    with pytest.raises(PlanFormatError):
        sign(path, generate_keys()[0])


def test_what_is_not_a_key_is_a_signature_error(path: Path, tmp_path: Path) -> None:
    private, public = generate_keys()
    for key in ("nonsense", public, b"123", str(tmp_path / "none")):
        with pytest.raises(SignatureError):
            sign(path, key)
    sign(path, private)
    for key in (private, b"123"):
        with pytest.raises(SignatureError):
            whet.load(path, require_key=key)


def test_signing_where_nothing_can_be_written_is_an_output_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *a: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(OutputError, match="Permission denied"):
        sign(path, generate_keys()[0])
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["a.plan"]
