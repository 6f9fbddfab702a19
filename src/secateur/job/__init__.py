"""A JOB AND ITS FOLDER: the words of a job file, what they stand for, and the run that they ask for."""

from secateur.job.words import (
    FOR_RANGES,
    SEARCHERS,
    DataJob,
    FineTuneJob,
    Job,
    ModelJob,
    ReportJob,
    parse_job,
    read_job,
)

__all__ = [
    "FOR_RANGES",
    "SEARCHERS",
    "DataJob",
    "FineTuneJob",
    "Job",
    "ModelJob",
    "ReportJob",
    "parse_job",
    "read_job",
]
