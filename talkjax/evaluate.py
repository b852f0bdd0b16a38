"""Scores a workdir on a held-out split, or any two folders of videos.

python -m talkjax.evaluate --workdir=runs/speech_edit --output=metrics.json
python -m talkjax.evaluate --generated=made/ --reference=true/

For a workdir, every clip is generated twice, with its own speech and with that of another clip, and scored by the
suites that the system names. `lip_score` correlates the mouth opening of the first with the true video's,
`lip_score_other_speech` that of the second. `lip_score_other_truth` is the score of the other clip's true video, and so
that of a perfect system: not 0 in a corpus whose clips all begin and end with silence. `--other_speech=rotated` starts
the other speech at a random time, circularly, which removes that shared timing. `psnr_mask_identity` and
`ssim_mask_identity` are the scores of repeating the first frame's mouth, the least that a system must beat.

Portrait systems have more: `identity`, the share of clips nearer to their own portrait than to those of 19 other people
by colours and landmarks; `in_region`, the share of frames whose face is where it was asked for; `keypoint_distance`,
the distance of eyes and nose from the true video's, in widths of the frame; `seam_jump`, the mean change of pixels at
the seams of separately generated clips over that elsewhere. `..._truth` are the scores of true videos.

Videos are generated from what a user gives `talkjax.generate`, here the first frame and the speech of a record.
V-Express also needs keypoints, and gets those of the true video; `true_conditions` in the JSON file says so. With
`--oracle`, emo gets the face region and the head speed of the true video, and the names of all scores begin with
`oracle_`.

Helper networks that make no video are scored by what they predict: of speech_encoder, `pearson_NAME` is the correlation
of a predicted curve with the true one.
"""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence

import numpy as np
import scipy.stats
import tqdm

from talkjax import cli, options, systems
from talkjax.corpora import perturb
from talkjax.corpora.perturb import one_by_one
from talkjax.corpora.records import Record
from talkjax.errors import UsageError
from talkjax.faces import measures
from talkjax.media import picture, video
from talkjax.media.segments import AUDIO_RATE
from talkjax.metrics import folders, lips, portrait
from talkjax.metrics.suites import Clip, Context, Generated, mouth_opening
from talkjax.options import Option
from talkjax.training import checkpoint, input_pipeline, sharding
from talkjax.training.workdir import read_config

OPTIONS = (
  Option('workdir', str, 'A workdir of talkjax.train or talkjax.convert.'),
  Option('split', str, "The split of the workdir's corpus to score.", 'test'),
  Option('generated', str, 'A folder of generated videos.'),
  Option('reference', str, 'A folder of true videos with the same names.'),
  Option('output', str, 'A JSON file for the scores.'),
  Option('weights', str, 'The averaged weights, or the last raw ones.', 'ema', choices=('ema', 'params')),
  Option('limit', int, 'Score at most so many clips.', minimum=1),
  Option('batch_size', int, 'Clips generated together, split over the devices.', 10, minimum=1),
  Option('seed', int, 'Of the noise and of the pairing with other speech.', 0),
  Option(
    'other_speech', str, 'Whether the speech of another clip starts at its beginning or at a random time.', 'plain',
    choices=('plain', 'rotated'),
  ),
  Option('snr', float, 'Add white noise to all speech, at this signal-to-noise ratio in dB.'),
  Option('oracle', bool, 'Take the conditions from the true video that a user would have to guess (emo).', False),
  Option(
    'sweep', str, 'Also measure heads and mouths of the first batch over an option: speed=8,14,20 or audio_weight=1,2.'
  ),
  Option('videos', str, 'A folder for the videos: source, true, generated, other_speech.'),
  Option('strip', str, 'A PNG file: truth above, generated below, of the first clip.'),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Scores:
  """The scores of a workdir: a row per clip, their means, their printed names, and a strip of the first clip."""

  rows: list[dict]
  means: dict
  names: tuple[str, ...]
  strip: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Settings:
  """How clips are generated and paired.

  Attributes:
    batch_size: clips at once.
    seed: of noise, pairing and rotation.
    rotate: other speech starts at a random time, circularly.
    oracle: `System.oracle` is taken from the true video, and the names of scores begin with `oracle_`.
    videos: a folder; for each clip, its video as the corpus has it goes to `source/`, the truth to `true/`, and what
      was generated, with the sound that drove it, to `generated/` and `other_speech/`.
  """

  batch_size: int = 10
  seed: int = 0
  rotate: bool = False
  oracle: bool = False
  videos: str | None = None


def score_workdir(system: systems.System, config, params, clips: Sequence[Record], settings: Settings) -> Scores:
  """Generates records with what was trained, and scores them.

  Clips are read when they are used, so memory does not grow with their number. Those of a batch are split over the
  devices where the parameters are.

  Args:
    system, config, params: what was trained.
    clips: records by index, each of which is read several times.
    settings: see `Settings`.
  """
  seed, batch_size = settings.seed, settings.batch_size
  prefix = 'oracle_' if settings.oracle else ''
  generator = np.random.default_rng(seed)
  texts, speakers, lengths = zip(*((c.transcript or c.id, c.speaker, len(c.frames)) for c in one_by_one(clips)))
  others = lips.other_speech(texts, seed)
  starts = [int(generator.integers(lengths[i])) for i in others] if settings.rotate else None
  context = _context(system, config, clips, frozenset(speakers))
  scorers = [suite.start(context) for suite in system.scores]
  rows, strips = [], []
  bar = tqdm.tqdm(total=2 * len(clips), unit='clip')

  def read_other(i: int) -> Record:
    other = clips[others[i]]
    return perturb.rotated(other, starts[i]) if starts else other

  def score_batch(numbers: range) -> None:
    batch, speech = [clips[i] for i in numbers], [read_other(i) for i in numbers]
    seeds = np.arange(seed + numbers.start, seed + numbers.stop, dtype=np.uint32)
    truth, own = generate_clips(system, params, batch, seeds, oracle=settings.oracle)
    bar.update(len(batch))
    _, other = generate_clips(system, params, batch, seeds, speech, oracle=settings.oracle)
    bar.update(len(batch))
    for scored in map(Clip, batch, speech, truth, own, other):
      if system.generate and not strips:
        strips.append(picture.strip([scored.truth.frames, scored.generated.frames]))
      row = {'name': scored.record.id, 'frames': len(scored.truth.frames or scored.record.frames)}
      for scorer in scorers:
        row |= {prefix + name: value for name, value in scorer(scored).items()}
      # JSON has no nan: a score that is not defined (a still mouth, an image too small for CPBD) is None.
      rows.append({k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in row.items()})
      if settings.videos:
        _write_videos(pathlib.Path(settings.videos), scored)

  for start in range(0, len(clips), batch_size):
    score_batch(range(start, min(start + batch_size, len(clips))))
  bar.close()
  return Scores(
    rows, _means(rows), tuple(prefix + name for suite in system.scores for name in suite.scores), *strips[:1]
  )


def generate_clips(
  system,
  params,
  clips: Sequence[Record],
  seeds: np.ndarray,
  speech: Sequence[Record] | None = None,
  *,
  oracle: bool = False,
  **settings,
) -> tuple[tuple, list[Generated]]:
  """(the truth, what is generated or predicted) of records; a generated clip is as long as its truth.

  Args:
    system, params: what was trained.
    clips: the records.
    seeds: [b] uint32.
    speech: as many records whose sound is used instead.
    oracle: of a system that has it, see `System.oracle`.
    **settings: values [b] of sweepable options.
  """
  if system.predict:
    return system.predict(params, clips, speech)
  # Filled up to a multiple of the devices, over which only such a batch is split.
  devices = sharding.num_devices(params)
  numbers = np.arange(-(-len(clips) // devices) * devices) % len(clips)
  fill = lambda values: [values[i] for i in numbers]
  batch = system.from_records(
    fill(clips),
    speech=speech and fill(speech),
    settings={name: np.asarray(values)[numbers] for name, values in settings.items()},
    **({'oracle': True} if oracle else {}),
  )
  chunk = systems.join(system.generate(params, batch.conditions, np.asarray(seeds)[numbers]))
  truths = batch.truth[: len(clips)]
  seams = chunk.seams or ((),) * len(numbers)
  generated = []
  for i, truth in enumerate(truths):
    count = len(truth.frames)
    sound = None if chunk.sound is None else chunk.sound[i, : round(count / chunk.fps * chunk.sound_rate)]
    within = tuple(s for s in seams[i] if s < count)
    generated.append(Generated(list(chunk.frames[i, :count]), chunk.fps, within, sound, chunk.sound_rate))
  return truths, generated


def _context(system, config, clips, speakers: frozenset[str]) -> Context:
  def people():
    yield from one_by_one(clips)
    yield from input_pipeline.eval_records(config.data, config.data.split)

  return Context(
    mouth=config.data.get('mouth', ''),
    speakers=speakers,
    people=people,
    first_frame=lambda record: system.from_records([record], num_frames=1).truth[0].frames[0],
  )


def _write_videos(folder: pathlib.Path, clip: Clip) -> None:
  source = [clip.record.frame(i) for i in range(len(clip.record.frames))]
  own, other = (r.audio.astype(np.float32) / 32768 for r in (clip.record, clip.other))
  fps = clip.record.fps
  videos = {
    'source': Generated(source, fps, sound=own),
    'true': Generated(clip.truth.frames, fps, sound=own),
    'generated': clip.generated,
    'other_speech': clip.with_other_speech,
  }
  for kind, shown in videos.items():
    sound, rate = shown.sound, shown.sound_rate
    if sound is None:
      sound, rate = other if kind == 'other_speech' else own, AUDIO_RATE
    path = folder / kind / f'{clip.record.id}.mp4'
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = sound[: round(len(shown.frames) / shown.fps * rate)]
    with video.VideoWriter(path, shown.fps, shown.frames[0].shape[:2], samples, rate) as writer:
      for frame in shown.frames:
        writer.write(frame)


def sweep(
  system, config, params, clips: Sequence[Record], option: str, values: Sequence[float], seed: int
) -> dict[str, tuple]:
  """What an option does to heads and mouths.

  Args:
    system, config, params: what was trained.
    clips: records, whose portraits and sound are used.
    option: a sweepable one.
    values: of it.
    seed: of the noise.

  Returns:
    By name (`head_speed`, degrees/s; `mouth_opening` in the quarter of the frames whose true mouth is open widest; its
    standard deviation over time, `mouth_motion`): the clips' mean at each value, and the mean over clips of Spearman's
    rank correlation with the values.
  """
  seeds = np.arange(seed, seed + len(clips), dtype=np.uint32)
  measured = {'head_speed': [], 'mouth_opening': [], 'mouth_motion': []}
  opening = lambda frames, truth: mouth_opening(frames, truth.landmarks, config.data.mouth)
  true = None
  for value in values:
    truth, generated = generate_clips(system, params, clips, seeds, **{option: np.full(len(clips), value)})
    true = true or [opening(t.frames, t) for t in truth]
    tracks = [(portrait.track(g.frames), g.fps) for g in generated]
    measured['head_speed'].append([measures.head_speed(t.pose, fps).mean() if t else np.nan for t, fps in tracks])
    openings = [opening(g.frames, t) for g, t in zip(generated, truth)]
    measured['mouth_opening'].append([o[t >= np.quantile(t, 0.75)].mean() for o, t in zip(openings, true)])
    measured['mouth_motion'].append([np.std(o) for o in openings])
  result = {}
  for name, rows in measured.items():
    table = np.array(rows)  # [values, clips]
    # Where no face was found, or nothing changes, there is no rank.
    table = table[:, np.isfinite(table).all(0)]
    ranks = [scipy.stats.spearmanr(values, column).statistic for column in table.T if np.ptp(column)]
    result[name] = (table.mean(1).tolist() if table.size else [], float(np.mean(ranks)) if ranks else None)
  return result


def _means(rows: list[dict]) -> dict:
  names = [k for k in rows[0] if k not in ('name', 'frames')]
  values = {k: np.array([r[k] for r in rows], float) for k in names}
  means = {k: float(np.nanmean(v)) if np.isfinite(v).any() else None for k, v in values.items()}
  return {'clips': len(rows), 'frames': sum(r['frames'] for r in rows), **means}


def _evaluate_workdir(args) -> dict:
  """Scores a workdir, prints the table and returns what goes into the JSON file."""
  config = read_config(args.workdir)
  declared = systems.module(config.system).OPTIONS
  swept = options.parse_sweep(args.sweep, config.system, declared)
  accepted = [dataclasses.replace(o, required=False) for o in declared if o.evaluate]
  options.check(config.system, accepted, args.given)
  config, _ = options.apply(config, accepted, args.given)
  clips = input_pipeline.open_corpus(config.data, args.split)[: args.limit]
  if args.snr is not None:
    clips = perturb.NoisyClips(clips, args.snr, args.seed)
  system = systems.build(config)
  if not system.generate and (args.strip or args.videos or args.sweep):
    raise UsageError(
      f'--workdir={args.workdir}: {config.system} makes no video: leave out --strip, --videos and --sweep'
    )
  if args.oracle and not system.oracle:
    raise UsageError(
      f'--oracle: {config.system} has no conditions that could be taken from the true video: leave it out'
    )
  true_conditions = (*system.true_conditions, *(system.oracle if args.oracle else ()))
  _, params, step = checkpoint.load_params(args.workdir, args.weights)
  if system.generate:
    params = sharding.replicate(params)
  scores = score_workdir(
    system,
    config,
    params,
    clips,
    Settings(args.batch_size, args.seed, args.other_speech == 'rotated', args.oracle, args.videos),
  )
  print(folders.table(scores.rows, scores.means, scores.names))
  if true_conditions:
    print(f'generated with the {", ".join(true_conditions)} of the true videos')
  about = {
    'workdir': args.workdir,
    'step': step,
    'weights': args.weights,
    'corpus': input_pipeline.first_corpus(config.data),
    'split': args.split,
    'other_speech': args.other_speech,
    'snr': args.snr,
    'true_conditions': true_conditions,
    'settings': {option.name: _at(config, option.key) for option in accepted if option.key},
  }
  if swept:
    first = [clips[i] for i in range(min(args.batch_size, len(clips)))]
    measured = sweep(system, config, params, first, *swept, args.seed)
    about |= {'sweep': {swept[0]: swept[1], **measured}}
    for name, (values, rank) in measured.items():
      shown = 'not defined' if rank is None else f'{rank:.2f}'
      print(f'{swept[0]} {list(swept[1])}: {name} {[round(v, 3) for v in values]}, Spearman {shown}')
  if args.strip:
    picture.write(args.strip, scores.strip)
  return {**scores.means, **about, 'rows': scores.rows}


def _at(config, key: str):
  for part in key.split('.'):
    config = config[part]
  return config


def _main(args) -> None:
  if bool(args.workdir) == bool(args.generated) or bool(args.generated) != bool(args.reference):
    raise UsageError('give either --workdir, or both --generated and --reference')
  if args.workdir:
    result = _evaluate_workdir(args)
  else:
    rows, means = folders.compare_folders(args.generated, args.reference)
    print(folders.table(rows, means))
    result = {**means, 'generated': args.generated, 'reference': args.reference, 'rows': rows}
  if args.output:
    path = pathlib.Path(args.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2, allow_nan=False) + '\n')


def main(argv: Sequence[str] | None = None) -> int:
  return cli.run(_main, OPTIONS, __doc__, argv, of_systems=lambda option: option.evaluate)


if __name__ == '__main__':
  sys.exit(main())
