"""Ed25519 signatures of plans (RFC 8032): over the plan's hash, kept in its trailer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whet.errors import MissingExtraError, SignatureError
from whet.plan import manifest, reader, writer

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ed25519

_NEW = "make one: whet sign --generate-key FOLDER"
_DOMAIN = b"whet plan signature 1\0"
Key = bytes | str | os.PathLike[str]  # 32 raw bytes, hexadecimal, PEM text, or a file with one of these


def generate_keys() -> tuple[str, str]:
    """A fresh (private, public) pair as PEM text. Keep the first secret; hand the second to those who load."""
    c = _library()
    key = c.Ed25519PrivateKey.generate()
    s = _serialization()
    private = key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())
    public = key.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)
    return private.decode(), public.decode()


def sign(path: str | os.PathLike[str], private_key: Key) -> None:
    """Sign a plan file (replacing its signature), after verifying its hash.

    SignatureError: not a key. PlanFormatError: a damaged plan. OutputError: the file cannot be replaced.
    """
    key = _private(private_key)
    public = _raw_public(key.public_key())
    fd = _open(path)
    try:
        contents = reader.read(fd)
        signature = key.sign(_DOMAIN + contents.root)
        trailer = manifest.Trailer(evidence=contents.trailer.evidence, signature=manifest.Signature(
            "ed25519", public.hex(), signature.hex()))
        with writer.atomic(path) as f:
            writer.copy(fd, f, contents.body_bytes)
            f.write(writer.trailer_bytes(trailer))
    finally:
        os.close(fd)


def verify(root: bytes, signature: manifest.Signature | None, public_key: Key) -> None:
    """SignatureError unless `signature` is one of `root` by the private half of `public_key`."""
    from cryptography.exceptions import InvalidSignature

    key = _public(public_key)
    do = "get the plan from whoever holds the key, or sign it: whet sign"
    if signature is None:
        raise SignatureError("the plan is not signed", why="a signature is required (require_key)", do=do)
    try:
        if signature.algorithm != "ed25519" or bytes.fromhex(signature.key) != _raw_public(key):
            raise SignatureError("the plan is signed with another key", why=f"with {signature.key:.64}", do=do)
        key.verify(bytes.fromhex(signature.signature), _DOMAIN + root)
    except (InvalidSignature, ValueError) as e:
        raise SignatureError("the plan's signature is false", why="it does not fit the plan's hash", do=do) from e


def _open(path: str | os.PathLike[str]) -> int:
    from whet.plan.plan import open_file

    return open_file(path)


def _library() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as e:
        raise MissingExtraError.for_package("cryptography", "sign", "signing and checking signatures") from e
    return ed25519


def _serialization() -> Any:
    from cryptography.hazmat.primitives import serialization

    return serialization


def _material(key: Key) -> bytes:
    """Raw or PEM bytes of a key however it was given."""
    if isinstance(key, str) and "-----" not in key:
        try:
            if len(key) == 64:
                return bytes.fromhex(key)
        except ValueError:
            pass
        key = Path(key)
    if isinstance(key, os.PathLike):
        try:
            raw = Path(key).read_bytes()
        except OSError as e:
            raise SignatureError("the key cannot be read", where=str(key), why=e.strerror or str(e)) from e
        text = raw.strip()
        return bytes.fromhex(text.decode()) if len(text) == 64 and b"-" not in text else raw
    return key.encode() if isinstance(key, str) else key


def _private(key: Key) -> ed25519.Ed25519PrivateKey:
    library = _library()
    raw = _material(key)
    try:
        out = library.Ed25519PrivateKey.from_private_bytes(raw) if len(raw) == 32 else \
            _serialization().load_pem_private_key(raw, None)
    except (ValueError, TypeError) as e:
        raise SignatureError("this is not an Ed25519 private key", why=str(e), do=_NEW) from e
    if not isinstance(out, library.Ed25519PrivateKey):
        raise SignatureError("this is not an Ed25519 private key", why=type(out).__name__, do=_NEW)
    return out


def _public(key: Key) -> ed25519.Ed25519PublicKey:
    library = _library()
    raw = _material(key)
    try:
        out = library.Ed25519PublicKey.from_public_bytes(raw) if len(raw) == 32 else \
            _serialization().load_pem_public_key(raw)
    except (ValueError, TypeError) as e:
        raise SignatureError("this is not an Ed25519 public key", why=str(e), do="give the public half") from e
    if not isinstance(out, library.Ed25519PublicKey):
        raise SignatureError("this is not an Ed25519 public key", why=type(out).__name__, do="give the public half")
    return out


def _raw_public(key: ed25519.Ed25519PublicKey) -> bytes:
    s = _serialization()
    return key.public_bytes(s.Encoding.Raw, s.PublicFormat.Raw)

