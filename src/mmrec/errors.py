"""Errors that mmrec raises on purpose: each says what is wrong, where, and how to mend it."""


class MmrecError(Exception):
    """Base of all errors that a user can mend; the CLI prints the message without a traceback."""


class ConfigError(MmrecError):
    """An option or a combination of options that cannot work."""


class DataError(MmrecError):
    """The input cannot be used: the message names the file, the line where known, and the mend."""


class PhotoError(DataError):
    """One photo was refused; the message is the reason, fit for the rejects file."""


class ModelError(MmrecError):
    """A model, its weights or its folder cannot be used."""


class AuditError(MmrecError):
    """Features were made from reviews that their rows must not see."""


class StoreError(MmrecError):
    """A database cannot be reached, read or written."""
