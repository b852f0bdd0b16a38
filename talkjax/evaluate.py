"""Scores a workdir on a held-out split, or any two folders of videos.

python -m talkjax.evaluate --workdir=runs/speech_edit --output=metrics.json
python -m talkjax.evaluate --generated=made/ --reference=true/

For a workdir, every clip is generated twice, with its own speech and with that of another clip (once where no score
needs the other), and scored by the suites that the system names. `lip_score` correlates the mouth opening of the first
with the true video's, `lip_score_other_speech` that of the second. `lip_score_other_truth` is the score of the other
clip's true video, and so that of a perfect system: not 0 in a corpus whose clips all begin and end with silence.
`--other_speech=rotated` starts the other speech at a random time, circularly, which removes that shared timing.
`psnr_mask_identity` and `ssim_mask_identity` are the scores of repeating the first frame's mouth, the least that a
system must beat.

Portrait systems have more: `identity`, the share of clips nearer to their own portrait than to those of 19 other people
by colours and landmarks; `in_region`, the share of frames whose face is where it was asked for; `keypoint_distance`,
the distance of eyes and nose from the true video's, in widths of the frame; `seam_jump`, the mean change of pixels at
the seams of separately generated clips over that elsewhere. `..._truth` are the scores of true videos.

Videos are generated from what a user gives `talkjax.generate`, here the first frame and the speech of a record.
`--corpus=NAME` takes the clips of another corpus than that of the training.
V-Express also needs keypoints, and gets those of the true video; `true_conditions` in the JSON file says so. With
`--oracle`, emo gets the face region and the head speed of the true video, and the names of all scores begin with
`oracle_`.

Suites of scores are chosen by `--suites=image,sync,motion,identity,joint`, each alone or together, for workdirs and
folders: docs/scores.md says which scores they have. `--suites=joint` compares sets and no single videos: the two
folders may then have other names and numbers of videos. Some scores need published networks, which `talkjax.convert`
makes of their files:

python -m talkjax.convert --source=inception --path=pt_inception-2015-12-05-6726825d.pth --output=runs/scores/inception
python -m talkjax.evaluate --generated=made/ --reference=true/ --suites=image --metric_weights=runs/scores

Without a network its scores are left out, and a line says so. Workdirs are also scored by person. A lip expert of our
own, which needs no published weights, judges the sync of any videos, also of those without a truth: of puppets

python -m talkjax.evaluate --workdir=runs/fd_3 --suites=sync --lip_expert=runs/lip_expert

Helper networks that make no video are scored by what they predict: of speech_encoder, `pearson_NAME` is the correlation
of a predicted curve with the true one.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence

from talkjax import cli, options, systems
from talkjax.corpora import perturb
from talkjax.errors import UsageError, UserError
from talkjax.media import files, outputs, picture
from talkjax.metrics import folders, pairs, people
from talkjax.metrics.suites import Suite
from talkjax.options import Option
from talkjax.pipeline import TITLE, generated
from talkjax.systems.scoring import Settings, load_lip_expert, score_workdir, sweep
from talkjax.training import checkpoint, input_pipeline, ranges, sharding
from talkjax.training.workdir import flatten
from talkjax.weights import coefficients

OPTIONS = (
  Option('workdir', str, 'A workdir of talkjax.train or talkjax.convert.'),
  Option('corpus', str, 'A corpus to score on in place of that of the training, such as voxceleb.'),
  Option('split', str, 'The split of the corpus to score.', 'test'),
  Option('generated', str, 'A folder of generated videos.'),
  Option('reference', str, 'A folder of true videos with the same names (of any with --suites=joint).'),
  Option('output', str, 'A JSON file for the scores.'),
  Option('weights', str, 'The averaged weights, or the last raw ones.', 'ema', choices=('ema', 'params')),
  Option('limit', int, 'Score at most so many clips.', minimum=1),
  Option('batch_size', int, 'Clips generated together, split over the devices.', 10, minimum=1),
  Option('seed', int, 'Of the noise and of the pairing with other speech.', 0, minimum=0, maximum=options.MAX_SEED),
  Option(
    'other_speech', str, 'Whether the speech of another clip starts at its beginning or at a random time.', 'plain',
    choices=('plain', 'rotated'),
  ),
  Option('snr', float, 'Add white noise to all speech, at this signal-to-noise ratio in dB.'),
  Option('oracle', bool, 'Take the conditions from the true video that a user would have to guess (emo).', False),
  Option(
    'sweep', str, 'Also measure heads and mouths of the first batch over an option: speed=8,14,20 or audio_weight=1,2.'
  ),
  Option('suites', str, f'Scores to compute, a list of {", ".join(pairs.SUITES)} (default: those of the system).'),
  Option(
    'mouth', str, 'How --suites=joint measures mouths of two folders: filmed ones, or those of drawn puppets.',
    'landmarks', choices=('landmarks', 'found'),
  ),
  Option('metric_weights', str, 'A folder of the converted networks that scores need, see docs/scores.md.'),
  Option('face_embedding', str, 'An ONNX model that embeds faces, for f_sim and delta_face_sim.'),
  Option('lip_expert', str, 'A workdir of lip_expert, for expert_confidence and expert_offset of the sync.'),
  Option('videos', str, 'A folder for the videos: source, true, generated, other_speech.'),
  Option('strip', str, 'A PNG file: truth above, generated below, of the clips with the best and the worst lip score.'),
)  # fmt: skip


def choose(names: str | None, own: Sequence[Suite], videos: bool = True) -> tuple[Suite, ...]:
  """The suites that --suites names: those of the system that have these names, then those of pairs; None: the system's.

  Args:
    names: the value of the flag.
    own: the suites of the system.
    videos: whether it makes videos, which suites of pairs compare.

  Raises:
    UsageError: there is no such suite.
  """
  if names is None:
    return tuple(own)
  chosen = tuple(dict.fromkeys(filter(None, names.split(','))))
  if not chosen or not pairs.SUITES.keys() >= set(chosen):
    raise UsageError(f'--suites={names}: expected a list of {", ".join(pairs.SUITES)}')
  found = [suite for suite in own if suite.name in chosen and suite not in pairs.SUITES.values()]
  if videos:
    return (*found, *map(pairs.SUITES.get, chosen))
  if lacking := [name for name in chosen if name not in {suite.name for suite in found}]:
    raise UsageError(f'--suites={names}: this system makes no video, so leave out {", ".join(lacking)}')
  return tuple(found)


# Networks that have flags of their own, and what a user gives for them.
_REMEDIES = {'face_embedding': '--face_embedding=MODEL.onnx', 'lip_expert': '--lip_expert=WORKDIR'}


def _networks(args, suites: Sequence[Suite]) -> tuple[dict, list[str]]:
  """(the networks of the suites that are given, a sentence for each that is not)."""
  wanted: dict[str, list[str]] = {name: [] for suite in suites for name in suite.optional}
  for suite in suites:
    for score, name in suite.networks.items():
      wanted.setdefault(name, []).append(score)
  for flag in _REMEDIES:
    if getattr(args, flag) and flag not in wanted:
      raise UsageError(f'--{flag}={getattr(args, flag)}: no score of these suites needs it: leave it out')
  if not wanted:
    return {}, []
  from talkjax.weights import face_embedding, scoring

  networks = scoring.load(args.metric_weights, wanted) if args.metric_weights else {}
  if args.face_embedding:
    networks['face_embedding'] = face_embedding.load(args.face_embedding)
  if args.lip_expert:
    networks['lip_expert'] = load_lip_expert(args.lip_expert)
  missing, folder = [], args.metric_weights or 'runs/scores'
  for name, scores in wanted.items():
    if name in networks:
      continue
    remedy = f'{scoring.command(folder, name)} and --metric_weights={folder}' if name in scoring.BATCH else ''
    if not scores:
      missing.append(f'the pose of diversity and beat_align is that of landmarks; for that of {name}: {remedy}')
    else:
      remedy = remedy or _REMEDIES[name]
      missing.append(f'no {" and ".join(dict.fromkeys(scores))} without {name}: {remedy}')
  return networks, missing


def _evaluate_workdir(args) -> dict:
  """Scores a workdir, prints the table and returns what goes into the JSON file."""
  config = ranges.read_config(args.workdir)
  if 'data' not in config:
    raise UserError(f'{args.workdir}/config.json is damaged (it has no data): restore it from a copy')
  declared = systems.module(config.system).OPTIONS
  swept = options.parse_sweep(args.sweep, config.system, declared)
  accepted = [dataclasses.replace(o, required=False) for o in declared if o.evaluate]
  options.check(config.system, accepted, args.given)
  config, _ = options.apply(config, accepted, args.given)
  if args.corpus is not None:
    config.data.corpus = args.corpus
  input_pipeline.locate(config.data, args.workdir)
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
  caches = coefficients.computed(config, args.split, params) if coefficients.KEY in system.features else ()
  clips = input_pipeline.open_corpus(config.data, args.split, caches)[: args.limit]
  if args.snr is not None:
    clips = perturb.NoisyClips(clips, args.snr, args.seed)
  if system.generate:
    params = sharding.replicate(params)
  suites = choose(args.suites, system.scores, bool(system.generate))
  networks, missing = _networks(args, suites)
  settings = Settings(args.batch_size, args.seed, args.other_speech == 'rotated', args.oracle, args.videos)
  scores = score_workdir(system, config, params, clips, settings, suites, networks)
  print(folders.table(scores.rows, scores.means, scores.names))
  by_person = people.by_person(scores.rows, scores.names)
  if by_person:
    print(f'\n{people.table(by_person, scores.means, scores.names)}')
  print(*missing, sep='\n', end='\n' if missing else '')
  if true_conditions:
    print(f'generated with the {", ".join(true_conditions)} of the true videos')
  keys = flatten(config.to_dict())
  about = {
    'workdir': args.workdir,
    'step': step,
    'weights': args.weights,
    'corpus': input_pipeline.first_corpus(config.data),
    'split': args.split,
    'other_speech': args.other_speech,
    'snr': args.snr,
    'true_conditions': true_conditions,
    **_about_scores(args, networks, missing),
    'people': by_person,
    'worst': people.worst(by_person, scores.names),
    'settings': {o.name: keys[o.key] for o in accepted if o.key in keys},  # an earlier stage has fewer keys
  }
  if swept:
    first = [clips[i] for i in range(min(args.batch_size, len(clips)))]
    measured = sweep(system, config, params, first, *swept, args.seed)
    about |= {'sweep': {swept[0]: swept[1], **measured}}
    for name, (values, rank) in measured.items():
      shown = 'not defined' if rank is None else f'{rank:.2f}'
      print(f'{swept[0]} {list(swept[1])}: {name} {[round(v, 3) for v in values]}, Spearman {shown}')
  if args.strip:
    picture.write(args.strip, scores.strip, {'title': TITLE})
  return {**scores.means, **about, 'rows': scores.rows}


def _evaluate_folders(args) -> dict:
  """Scores two folders, prints the table and returns what goes into the JSON file."""
  suites = choose(args.suites, ())
  networks, missing = _networks(args, suites)
  names = [suite.name for suite in suites] or ['image', 'sync']
  if suites and all(suite.sets for suite in suites):
    rows, means = folders.compare_sets(args.generated, args.reference, suites, networks, args.mouth)
  else:
    rows, means = folders.compare_folders(
      args.generated, args.reference, 'sync' in names, 'image' in names, suites, networks, args.mouth
    )
  print(folders.table(rows, means, (*folders.SCORES, *(name for suite in suites for name in suite.scores))))
  print(*missing, sep='\n', end='\n' if missing else '')
  about = {'generated': args.generated, 'reference': args.reference, **_about_scores(args, networks, missing)}
  return {**means, **about, 'rows': rows}


def _about_scores(args, networks: dict, missing: list[str]) -> dict:
  pose = 'hopenet' if 'hopenet' in networks else 'landmarks'
  return {'suites': args.suites, 'pose': pose, 'networks': {k: n.key for k, n in networks.items()}, 'missing': missing}


def _scores(path: str) -> bool:
  """Whether a file has the scores of an earlier evaluation."""
  try:
    result = json.loads(files.read_bytes(path, 'a JSON file'))
  except (UserError, ValueError, RecursionError):
    return False
  return isinstance(result, dict) and {'rows', 'suites'} <= result.keys()


def _main(args) -> None:
  if bool(args.workdir) == bool(args.generated) or bool(args.generated) != bool(args.reference):
    raise UsageError('give either --workdir, or both --generated and --reference')
  for flag, suffix, ours in (('output', '.json', _scores), ('strip', '.png', generated)):
    if (path := getattr(args, flag)) is not None:
      outputs.check(path, [suffix], flag=flag, replaceable=ours, remedy='choose another name')
  if args.videos is not None:
    outputs.check_folder(args.videos, f'--videos={args.videos}')
  if args.workdir:
    result = _evaluate_workdir(args)
  else:
    result = _evaluate_folders(args)
  if args.output:
    outputs.write_text(args.output, json.dumps(result, indent=2, allow_nan=False) + '\n')


def main(argv: Sequence[str] | None = None) -> int:
  return cli.run(_main, OPTIONS, __doc__, argv, of_systems=lambda option: option.evaluate)


if __name__ == '__main__':
  sys.exit(main())
