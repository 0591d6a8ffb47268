"""All hostile inputs, by kind."""

from __future__ import annotations

from tools.hostile.case import Case
from tools.hostile.cases import data, files, models, options, tables

CASES: tuple[Case, ...] = (*models.CASES, *tables.CASES, *data.CASES, *files.CASES, *options.CASES)
