"""Configuration files: builds by name in `whet.yaml`, read with the line of every fault, checked against a schema, and
what each option means. (docs/configuration.md)"""

from whet.config.builds import Build, File, resolved, schema
from whet.config.reading import Configuration, read

__all__ = ["Build", "Configuration", "File", "read", "resolved", "schema"]
