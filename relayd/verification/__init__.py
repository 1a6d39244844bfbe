"""Whether what an import made answers as Postfix does: both are asked, address by address."""
