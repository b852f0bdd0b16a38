"""Values that no flag and no config key should have: each is refused in one sentence, before anything is written.

In the lists below a line is the end of a command line, or several: what is before `~`, with each of the values after
it, which are separated by `|`. Names in braces stand for whole media, workdirs and folders.
"""

import pathlib
import shlex
import shutil
from collections.abc import Iterator

import pytest

from tests import made_up_face
from tests.commands import MICRO
from tests.hostile import workdirs

pytestmark = pytest.mark.large
KIND = 'flag values'
SPEECH_EDIT = """
--steps=~ -1 | 0 | 1.5 | nan | inf | 1e99 | x |
--seed=~ -1 | 4294967296 | 1.5 | x | 1e3
--batch_size=~ -2 | 0 | 1.5
--identity=~ 99999 | -1 | 1.5 | 99999999999999999999999999 | nobody.png |
--sampler=~ x | DDIM |
--~ weights=best | sweep=steps=1,2 | sweep= | guidance=2 | overwrite=x
~ x | --video= | --audio= | --video={portrait.png} | --audio={portrait.png} | --video={sound.wav}
~ --video=. | --audio=/
--video=~ http://127.0.0.1:9/a | pipe:0 | concat:{talk.mp4} | file:{talk.mp4} | /dev/zero | /dev/stdin
"""
EMO = """
--guidance=~ nan | inf | 1e999 | x |
--speed=~ -1 | nan | x
--face_box=~ 0,0,1 | 0.5,0,0.2,1 | nan,0,1,1 | 0,0,2,2 | a,b,c,d |
--sweep=~ speed | speed= | speed=1 | speed=1,nan | speed=-1,2 | nothing=1,2 | speed=1,2
--audio_weight=~ nan | -inf
--image=~ *.nothing | , | {portrait.png},x | {talk.mp4} | {portrait.png},{portrait.jpg}
--motion_frames=maybe
"""
VEXPRESS = """
--window=~ -1 | 0 | 1.5
--overlap=~ -1 | 4 | 99999
--window_batch_size=~ -1 | 0
--kps=~ x.npy | x.pth | {portrait.png} | {motion.npz} | {sound.wav} |
--~ retarget=x | compat=x | retarget=naive
"""
FD2TALK = """
--pose=~ x | {portrait.png} | {sound.wav} |
--motion=~ x.npz | {points.npy} | {talk.mp4} |
--save_motion=~ x.mp4 | /proc/x.npz | {points.npy} | {portrait.png} | . |
--sweep=seed=~ 0.5,1 | -1,1 | 0,1e30
--~ noise=x | mesh=maybe
--motion={motion.npz} --save_motion={motion.npz}
"""
AUTOENCODER = """
--size=~ -1 | 0 | 7 | 17 | x
--image=~ {portrait.png} | {portrait.png},{portrait.jpg}
"""
WAV2LIP = """
--video=~ x | {portrait.png} | {sound.wav} |
--video={talk.mp4} --image=~ {portrait.png} | x
--image=~ x | {talk.mp4} | {portrait.png},{portrait.jpg}
--video={talk.mp4} --~ steps=1 | sampler=ddim | guidance=2 | batch_size=0
"""
SUPER_RESOLUTION = """
--video=~ x | {portrait.png} | {sound.wav} | /dev/zero |
--video={talk.mp4} --~ steps=0 | steps=nan | sampler=x | audio={sound.wav} | batch_size=-1
"""
JOINT_AV = """
--text=~ '' | ... | 你好 | "$(printf x)" --audio={sound.wav}
--caption=~ x | 'A cat is talking'
--seconds=~ 0 | -1 | nan | 1e9 | x
--text=hello --~ seconds=1 | audio={sound.wav} | speech_engine=x | guidance=-1 | guidance=nan | speech_guidance=x
--image=~ x | {talk.mp4} |
--audio=~ x | {portrait.png} |
--renderer=~ /nonexistent | {speech_edit} | {talk.mp4} |
--wav2lip=~ /nonexistent | {emo}
--super_resolution=/nonexistent
--caption_classifier={emo}
--request=~ x | {talk.mp4} | {points.npy} | /dev/zero |
--text=hello --save_request=~ x.txt | {talk.mp4} | /proc/a.json | {joint_av}/config.json | . |
--image={portrait.png} --save_request={out}/a.json
"""
# By system: what comes first, and the ends.
PORTRAIT = '--image={portrait.png} --audio={sound.wav}'
GENERATE = {
  'speech_edit': ('--video={talk.mp4} --audio={sound.wav}', SPEECH_EDIT),
  'emo': (PORTRAIT, EMO),
  'vexpress': (PORTRAIT, VEXPRESS),
  'fd2talk': (PORTRAIT, FD2TALK),
  'autoencoder': ('--video={talk.mp4}', AUTOENCODER),
  'lip_expert': ('', '--audio={sound.wav}'),
  'wav2lip': ('--audio={sound.wav}', WAV2LIP),
  'super_resolution': ('', SUPER_RESOLUTION),
  'joint_av': ('', JOINT_AV),
}
TRAIN = """
--config.~ seed=-1 | seed=1.5 | seed=x | batch_size=-1 | batch_size=x | steps=-1 | steps=1.5 | steps=
--config.~ batch_size=0 | steps=0 | log_every=0 | checkpoint_every=0 | keep_checkpoints=0
--config.size=~ -1 | 0 | 33 | 63 | 1000000
--config.optimizer.learning_rate=~ nan | inf | -1 | 0 | x
--config.optimizer.~ warmup=-1 | weight_decay=-1 | clip=-1 | accumulate=-1 | b1=-1 | eps=-1 | schedule=x
--config.data.~ examples_per_record=-1 | workers=-1 | threads=-1 | prefetch=-1
--config.data.split=~ 'test[:0]' | 'test[' | x | '' | 'test[5:2]' | 'test[999999:]'
--config.data.corpus=~ '' | ../.. | puppets:0 | puppets:nan | 'a b' | puppets,puppets
--config.data.dir=~ /dev/null | /nonexistent | /proc |
--config.model.~ width=0 | width=-8 | width=33 | width=x | multipliers=(0,) | multipliers=()
--config.model.~ patch_size=0 | patch_size=5 | num_res_blocks=-1 | head_channels=0
--config.sampler.~ name=x | steps=0 | steps=100000 | eta=nan | spacing=x
--config.diffusion.~ schedule=x | steps=0 | target=x | end=nan
--config.~ dtype=float31 | ema=1.0 | ema=nan | mesh.data=0 | mesh.tensor=3 | system=x | system= | mask=x | margin=-1
--config.~ audio.kind=x | nothing=1 | model=1 | data=x | init_from=/nonexistent | init_from=.
--config.train=~ ((1,2),) | "(('(', True),)" | "(('x',),)"
--config.rules=~ "(('(', 'fsdp'),)" | ((1,),)
--config.load=~ "(('x', 'y'),)" | 1
--resume_from=~ -1 | 7 | x
--workdir=~ /proc/x | /dev/null | {talk.mp4} |
"""
# Of systems that start from other workdirs, or read coefficients.
FD2TALK_TRAIN = """
--config.lip_expert=~ /nonexistent | {inputs} | {talk.mp4} | {speech_edit} | {renderer} | x |
--config.data.coefficients=~ x | ../.. | deep3d | /nonexistent |
--config.~ frames=0 | frames=3 | windows.overlap=8 | windows.overlap=-1 | clip=-1 | stage=9 | loss.sync=-1
--config.morphable.~ expression=0 | expression=5 | vertices=-1 | kind=x
--config.model.~ layers=0 | heads=3 | width=-16 | radius=-1
--config.init_from=~ {emo} | {lip_expert} | {talk.mp4}
"""
JOINT_TRAIN = """
--config.renderer=~ /nonexistent | {inputs} | {talk.mp4} | {speech_edit} | {lip_expert} | x
--config.~ wav2lip={emo} | wav2lip=/nonexistent | super_resolution={emo} | caption_classifier={emo}
--config.joins=~ "('nothing',)" | (1,) | "('captions',)"
--config.captions=~ () | (1,) | "('',)"
--config.space.~ frames=0 | frames=99999 | people=0 | code=0 | kind=x | fps=0 | fps=nan | size=7
--config.guidance.~ overlap=-1 | overlap=8 | caption_by=x | speech=x
--config.~ caption_dropout=2 | data.segments=x | data.mouth=x | loss.code=-1 | model.windows=(0,) | model.coupling=x
"""
CONFIGS = """
--config=~ nothing.py | {talk.mp4} | {inputs} | /dev/null | emo.py:x | {root}/setup.py | {root}/configs/common.py |
--config={root}/configs/emo.py:~ x | tiny,stage=9 | tiny,stage=x | tiny,= | tiny,size=-1 | tiny,batch_size=0
"""
EVALUATE = """
--workdir={speech_edit} --limit=~ -1 | 0 | 1.5 | x
--workdir={speech_edit} --batch_size=~ -1 | 0
--workdir={speech_edit} --seed=~ -1 | 4294967296
--workdir={speech_edit} --split=~ 'test[:0]' | '' | 'test[x]' | 'test[' | none | 'test[:-999]'
--workdir={speech_edit} --snr=~ nan | inf | x
--workdir={speech_edit} --suites=~ x | image,x |
--workdir={speech_edit} --output=~ x | . | {talk.mp4} | /proc/a.json | {speech_edit}/config.json |
--workdir={speech_edit} --strip=~ x.mp4 | {portrait.png} | {portrait.jpg} |
--workdir={speech_edit} --videos=~ {talk.mp4} | /proc/x |
--workdir={speech_edit} --~ weights=x | other_speech=x | oracle | sweep=speed=1,2 | generated=x | metric_weights=
--workdir={speech_edit} --suites=identity --~ metric_weights=/nonexistent | face_embedding={talk.mp4} | face_embedding=x
--workdir=~ /nonexistent | {inputs} | {talk.mp4} |
--generated=~ x | {inputs} | {talk.mp4} |
--generated=~ x --reference=y | {inputs} --reference=/nonexistent | {talk.mp4} --reference={talk.mp4}
--workdir={lip_expert} --strip=a.png
"""
CONVERT = """
--source=sd15 --output=y --path=~ x | {talk.mp4} | /dev/null | hf: | hf:a | hf:../../a/b |
--source=vexpress --output=y --path=~ {inputs} | {talk.mp4}
--source=wav2vec2 --output=y --path={inputs}
--source=bfm --output=y --path=~ {motion.npz} | {inputs} | {points.pth} | {talk.mp4}
--source=deep3d --output=y --path=~ {points.pth} | {talk.mp4}
--source=diffusion_video_editing --path={points.pth} --output=~ y | {talk.mp4} | {speech_edit} | /proc/x |
--source=diffusion_video_editing --path={points.pth} --output=y --config={root}/configs/emo.py
--source=x --path=x --output=y
"""
BENCHMARK = """
--repeats=~ 0 | -1 | x
--videos=~ 0 | -1
--seconds=~ nan | -1
--output=~ a.txt | {talk.mp4} | /proc/a.json |
--profile=~ {talk.mp4} | /proc/x |
--config.~ steps=0 | batch_size=-1 | size=33
"""
PUPPETS = '{root}/data/puppets --workers=0'
BUILD = f"""
~ nothing | {{root}} | {{root}}/data | {{talk.mp4}} | {{root}}/data/clips
{{root}}/data/clips --manual_dir=~ /nonexistent | {{talk.mp4}} |
{{root}}/data/puppets --config=tiny --workers=~ -1 | x | 1.5
{{root}}/data/puppets --config=tiny --clip_timeout=~ -1 | 0 | nan | x
{PUPPETS} --config=tiny --size=~ -1 | 0 | x
{PUPPETS} --config=tiny --max_examples_per_split=~ -1 | 0 | x
{PUPPETS} --config=tiny --data_dir=~ /proc/x | {{talk.mp4}} |
{PUPPETS} --config=~ x | '{{' | '{{}}' | [] | '{{"name": "../../x"}}' | '{{"name": 3}}' | '{{"nothing": 3}}'
{PUPPETS} --config='{{"name": "x", "size": ~ -5}}' | 0}}' | "x"}}' | NaN}}' | 1e9}}' | []}}'
{PUPPETS} --~ config_idx=-1 | config_idx=99
{PUPPETS} --config=tiny --~ imports=nothing | file_format=x | speech_layers=x | num_processes=2 | nothing=1
{PUPPETS} --config=tiny --~ latents=/nonexistent | speech=/nonexistent | latents={{inputs}} | exclude_datasets=x
{PUPPETS} --config=tiny --coefficients=~ x | mesh_pca:/nonexistent | deep3d:a,b | deep3d:a |
{PUPPETS} --config=tiny --feature_cache=~ ../../x |
{PUPPETS} --config=tiny --~ num_shards=0 | num_shards=-1 | num_shards=x | max_shard_size_mb=0
"""


@pytest.fixture(scope='module')
def places(attempts, models, media, puppets):
  """What the names in braces stand for."""
  root = pathlib.Path(__file__).parents[2]
  config = shlex.join([*MICRO, f'--config.data.dir={puppets}']).replace('=configs', f'={root}/configs')
  data = attempts.inputs / 'datasets'
  shutil.copytree(puppets, data)
  made_up_face.write_cache(data)
  configs = {'config': config}
  for name, changes in workdirs.NEWER.items():
    words = [f'--config={root}/configs/{name}', f'--config.data.dir={data}']
    words += [f'--config.{key}={value}' for key, value in changes.items()]
    configs[name.partition('.')[0] + '_config'] = shlex.join(words)
  return {'root': root, 'inputs': attempts.inputs, **configs, **models, **media}


def command_lines(text: str, places, before: str = '') -> Iterator[list[str]]:
  """The words of the command lines that a list describes."""
  for line in text.strip().splitlines():
    first, several, values = line.partition('~')
    for value in values.split('|') if several else ('',):
      words = f'{before} {first}{value.strip()}'
      for name, place in places.items():
        words = words.replace(f'{{{name}}}', str(place))
      yield shlex.split(words)


def test_generate(attempts, models, places):
  for system, (before, text) in GENERATE.items():
    for words in command_lines(text, places, before):
      arguments = f'--workdir={models[system]}', '--output={out}/a.mp4', *words
      attempts.make(KIND, 'generate', *arguments, works=False)
  attempts.check(KIND, 80)


@pytest.mark.parametrize(
  ('command', 'text', 'before'),
  [
    ('train', TRAIN, '{config} --workdir={out}/run'),
    ('train', FD2TALK_TRAIN, '{fd2talk_config} --workdir={out}/run'),
    ('train', JOINT_TRAIN, '{joint_av_config} --workdir={out}/run'),
    ('train', CONFIGS, '--workdir={out}/run'),
    ('evaluate', EVALUATE, ''),
    ('convert', CONVERT, ''),
    ('benchmark', BENCHMARK, '{config}'),
    ('build', BUILD, ''),
  ],
  ids=['train', 'train_fd2talk', 'train_joint_av', 'configs', 'evaluate', 'convert', 'benchmark', 'build'],
)
def test_others(attempts, places, command, text, before):
  attempts.make(KIND, command, works=False)
  for words in command_lines(text, places, before):
    attempts.make(KIND, command, *words, works=False)
  attempts.check(KIND, 10)
