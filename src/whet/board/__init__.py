"""A web page over the measurement store: what was measured, what changed, what is decided from it. It only reads.

`application(store)` is the page as an ASGI application, `serve` runs it. Needs `pip install 'whet[board]'`.
"""

from whet.errors import MissingExtraError

try:
    import jinja2  # noqa: F401
    import starlette  # noqa: F401
except ImportError as e:
    raise MissingExtraError.for_package("Starlette with Jinja2", "board", "the board") from e

from whet.board.app import application
from whet.board.server import serve

__all__ = ["application", "serve"]
