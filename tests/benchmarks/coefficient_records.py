"""Records of a corpus with their cached coefficients, as the scripts of this folder read them."""

from talkjax.corpora.records import Record
from talkjax.training import input_pipeline
from talkjax.weights import coefficients


def read_records(data, split: str, limit: int | None = None) -> list[Record]:
  """The first records of a split; `data` is that of a config, and names the coefficients."""
  builder = input_pipeline.open_builder(data, split, data.corpus)
  cache, _ = coefficients.open_cache(builder, data.coefficients, split)
  return list(input_pipeline.open_corpus(data, split, [cache]))[:limit]
