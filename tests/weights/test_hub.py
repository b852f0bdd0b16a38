"""Weights from the Hugging Face Hub: a server on this machine answers as the hub does."""

import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading

import cv2
import ml_collections
import numpy as np
import pytest
import soundfile

from talkjax import convert
from talkjax.errors import UsageError, UserError
from talkjax.media import video
from talkjax.training import checkpoint, input_pipeline
from talkjax.weights import hub
from tests import made_up, published_files
from tests.commands import ROOT, call

pytest.importorskip('huggingface_hub', reason='needs huggingface_hub')

COMMIT = {'main': 'a' * 40, 'v1': 'b' * 40}


class Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = 'HTTP/1.1'

  def log_message(self, *_):
    pass

  def do_HEAD(self):
    self.answer(body=False)

  def do_GET(self):
    self.answer(body=True)

  def answer(self, body: bool):
    server = self.server
    server.requests.append((self.command, self.path, self.headers.get('Range'), self.headers.get('Authorization')))
    token = (self.headers.get('Authorization') or '').removeprefix('Bearer ')
    if token == 'wrong':
      return self.refuse(401, message='Invalid credentials in Authorization header')
    if token == 'forbidden':
      return self.refuse(403)
    api = re.fullmatch(r'/api/models/([\w-]+/[\w-]+)(?:/revision/(\w+))?', self.path)
    file = re.fullmatch(r'/([\w-]+/[\w-]+)/resolve/(\w+)/(.+)', self.path)
    repository, revision = (api or file).groups()[:2]
    if repository == 'org/gated':
      return self.refuse(403, 'GatedRepo')
    if repository not in ('org/net', 'tk93/V-Express'):
      return self.refuse(401 if not token else 404, 'RepoNotFound')
    commit = COMMIT.get(revision or 'main', revision)
    if commit not in COMMIT.values():
      return self.refuse(404, 'RevisionNotFound')
    files = server.files[commit]
    if api:
      info = {'id': repository, 'sha': commit, 'siblings': [{'rfilename': name} for name in files]}
      return self.send(200, json.dumps(info).encode(), {'Content-Type': 'application/json'}, body)
    if file[3] == server.fails:
      return self.refuse(500)
    if file[3] not in files:
      return self.refuse(404, 'EntryNotFound')
    content = files[file[3]]
    about = {'ETag': f'"{hashlib.sha256(content).hexdigest()}"', 'X-Repo-Commit': commit, 'Accept-Ranges': 'bytes'}
    first = re.fullmatch(r'bytes=(\d+)-', self.headers.get('Range') or '')
    if first:
      start = int(first[1])
      about['Content-Range'] = f'bytes {start}-{len(content) - 1}/{len(content)}'
      return self.send(206, content[start:], about, body)
    return self.send(200, content, about, body)

  def refuse(self, status: int, code: str = '', message: str = ''):
    self.send(status, b'{}', {'X-Error-Code': code, 'X-Error-Message': message}, self.command == 'GET')

  def send(self, status: int, content: bytes, headers: dict, body: bool):
    self.send_response(status)
    for name, value in {**headers, 'Content-Length': str(len(content))}.items():
      if value:
        self.send_header(name, value)
    self.end_headers()
    if not body:
      return
    if self.server.breaks and '/resolve/' in self.path:  # the connection breaks off in the middle
      self.server.breaks -= 1
      self.wfile.write(content[: len(content) // 2])
      self.close_connection = True
      return
    self.wfile.write(content)


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
  """Made-up files: by name, their content."""
  folder = tmp_path_factory.mktemp('published')
  for source, path in (('wav2vec2', 'pytorch_model.bin'), ('animatediff', 'motion/mm_sd_v15_v2.ckpt')):
    made_up.published(source, folder / path)
  return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob('*') if p.is_file()}


@pytest.fixture
def server(weights, tmp_path, monkeypatch):
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  server.requests, server.breaks, server.fails = [], 0, ''
  server.files = {COMMIT['main']: {**weights, 'README.md': b'#'}, COMMIT['v1']: {'pytorch_model.bin': b'old'}}
  thread = threading.Thread(target=server.serve_forever, daemon=True)
  thread.start()
  monkeypatch.setenv('HF_ENDPOINT', f'http://127.0.0.1:{server.server_port}')
  monkeypatch.delenv('HF_TOKEN', raising=False)
  monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path / 'cache'))
  monkeypatch.setattr('huggingface_hub.constants.HF_TOKEN_PATH', str(tmp_path / 'token'))
  yield server
  server.shutdown()
  server.server_close()
  thread.join()


def test_a_network_is_fetched_once_and_converted(server, weights, tmp_path):
  with made_up.narrow_networks():
    done = call('talkjax.convert', '--source=wav2vec2', '--path=hf:org/net', f'--output={tmp_path / "out"}')
    assert 'pytorch_model.bin' in done.stdout
    _, params, _ = checkpoint.load_params(tmp_path / 'out')
    wanted = made_up.pretrained_params('wav2vec2', '')
    np.testing.assert_array_equal(params['feature_projection_projection']['kernel'],
                                  wanted['feature_projection_projection']['kernel'])  # fmt: skip
    gets = [path for method, path, _, _ in server.requests if method == 'GET' and '/resolve/' in path]
    assert gets == [f'/org/net/resolve/{COMMIT["main"]}/pytorch_model.bin']  # and nothing else of the repository
    call('talkjax.convert', '--source=wav2vec2', '--path=hf:org/net', f'--output={tmp_path / "again"}')
  assert sum('/resolve/' in path for method, path, _, _ in server.requests if method == 'GET') == 1


def test_a_file_a_folder_and_a_revision_can_be_named(server, weights):
  assert hub.fetch('hf:org/net/motion/mm_sd_v15_v2.ckpt').read_bytes() == weights['motion/mm_sd_v15_v2.ckpt']
  folder = hub.fetch('hf:org/net/motion', convert.pretrained.FILES['animatediff'])
  assert [p.name for p in folder.iterdir()] == ['mm_sd_v15_v2.ckpt']
  everything = hub.fetch('hf:org/net')
  assert sorted(str(p.relative_to(everything)) for p in everything.rglob('*') if p.is_file()) == sorted(weights)
  assert (hub.fetch('hf:org/net@v1') / 'pytorch_model.bin').read_bytes() == b'old'
  assert hub.fetch(f'hf:org/net/pytorch_model.bin@{COMMIT["v1"]}').read_bytes() == b'old'


def test_the_configs_of_a_network_come_with_its_weights(server, weights):
  configs = {'config.json': b'{"hidden_size": 16}', 'preprocessor_config.json': b'{"do_normalize": true}'}
  server.files[COMMIT['main']] |= configs
  for address in ('hf:org/net', 'hf:org/net/pytorch_model.bin'):
    fetched = hub.fetch(address, convert.pretrained.FILES['wav2vec2'])
    folder = fetched if fetched.is_dir() else fetched.parent
    assert {name: (folder / name).read_bytes() for name in configs} == configs
    assert (folder / 'pytorch_model.bin').read_bytes() == weights['pytorch_model.bin']


def test_a_transfer_that_breaks_off_is_resumed(server, weights, monkeypatch):
  monkeypatch.setattr('huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE', 1024)  # whole chunks are kept
  server.breaks = 1
  content = weights['pytorch_model.bin']
  assert hub.fetch('hf:org/net/pytorch_model.bin').read_bytes() == content
  ranges = [wanted for method, path, wanted, _ in server.requests if method == 'GET' and '/resolve/' in path]
  assert ranges == [None, f'bytes={len(content) // 2 // 1024 * 1024}-']


def test_after_a_failed_command_whole_files_are_not_fetched_again(server, weights):
  lost = server.files[COMMIT['main']].pop('pytorch_model.bin')
  server.files[COMMIT['main']]['pytorch_model.bin'] = lost  # the last of the list
  server.fails = 'pytorch_model.bin'
  with pytest.raises(UserError, match='status 500'):
    hub.fetch('hf:org/net')
  server.fails = ''
  folder = hub.fetch('hf:org/net')
  assert (folder / 'pytorch_model.bin').read_bytes() == weights['pytorch_model.bin']
  gets = [path for method, path, _, _ in server.requests if method == 'GET' and path.endswith('.ckpt')]
  assert len(gets) == 1


def test_a_token_is_sent(server, monkeypatch):
  monkeypatch.setenv('HF_TOKEN', 'right')
  hub.fetch('hf:org/net/pytorch_model.bin')
  assert {token for *_, token in server.requests} == {'Bearer right'}


@pytest.mark.parametrize(
  ('path', 'token', 'sentence'),
  [
    ('hf:org/net', 'wrong', r'refused access \(401\): check the token in HF_TOKEN'),
    ('hf:org/net/pytorch_model.bin', 'wrong', r'refused access \(401\)'),
    ('hf:org/net', 'forbidden', r'refused access \(403\)'),
    ('hf:org/net/pytorch_model.bin', 'forbidden', r'refused access \(403\)'),
    ('hf:org/gated', '', 'org/gated is gated: accept its conditions'),
    ('hf:org/gated/a.bin', '', 'org/gated is gated: accept its conditions'),
    ('hf:org/nothing', '', 'there is no repository org/nothing, or it is private'),
    ('hf:org/nothing/a.bin', 'right', 'there is no repository org/nothing, or it is private'),
    ('hf:org/net/other.bin', '', r'org/net has no file other\.bin'),
    ('hf:org/net/elsewhere', '', r'has no model\.safetensors or pytorch_model\.bin'),
    ('hf:org/net@v9', '', 'org/net has no revision v9'),
    ('hf:org/net/pytorch_model.bin@v9', '', 'org/net has no revision v9'),
  ],
)
def test_what_cannot_be_fetched_is_one_sentence(server, tmp_path, monkeypatch, path, token, sentence):
  if token:
    monkeypatch.setenv('HF_TOKEN', token)
  done = call('talkjax.convert', '--source=wav2vec2', f'--path={path}', f'--output={tmp_path / "out"}', check=False)
  assert done.returncode == 1 and re.search(sentence, done.stderr), done.stderr
  assert done.stderr.count('\n') == 1 and not (tmp_path / 'out').exists()


@pytest.mark.parametrize('path', ['hf:org/net', 'hf:org/net/pytorch_model.bin'])
def test_no_network_is_one_sentence(server, monkeypatch, path):
  server.shutdown()
  server.server_close()
  with pytest.raises(UserError, match='the hub cannot be reached, or the download broke off .*: check the network'):
    hub.fetch(path, convert.pretrained.FILES['wav2vec2'])


@pytest.mark.parametrize('path', ['hf:', 'hf:net', 'hf:org/net@', 'hf://org/net', 'hf:org//a.bin'])
def test_other_addresses_are_refused(path):
  with pytest.raises(UsageError, match='expected hf:ORG/NAME'):
    hub.fetch(path)


CONFIG = """from tests.published_files import make_config


def get_config(_=None):
  return make_config('paper,stage=3')
"""


@pytest.mark.large
def test_portrait_sh_makes_a_video_from_published_weights(server, puppets, tmp_path):
  published = published_files.write_vexpress(tmp_path / 'published', published_files.vexpress_params())
  files = [p for p in published.rglob('*') if p.is_file()]
  server.files[COMMIT['main']] = {f'model_ckpts/{p.relative_to(published)}': p.read_bytes() for p in files}
  (tmp_path / 'config.py').write_text(CONFIG)
  data = ml_collections.ConfigDict({'dir': str(puppets), 'corpus': 'puppets/tiny'})
  clip = next(input_pipeline.eval_records(data, 'test', 1))
  portrait = tmp_path / 'portrait.png'
  cv2.imwrite(str(portrait), cv2.cvtColor(clip.frame(0), cv2.COLOR_RGB2BGR))
  soundfile.write(tmp_path / 'speech.wav', np.zeros(16_000, np.int16), 16_000)
  env = {**os.environ, 'PYTHON': sys.executable, 'CONFIG': str(tmp_path / 'config.py'), 'RUN': str(tmp_path / 'run')}
  env |= {'HF_HOME': str(tmp_path / 'hub'), 'JAX_PLATFORMS': 'cpu'}
  command = [
    str(ROOT / 'launch' / 'portrait.sh'),
    str(portrait),
    str(tmp_path / 'speech.wav'),
    str(tmp_path / 'out.mp4'),
  ]
  for _ in range(2):  # the second time nothing is fetched or converted
    done = subprocess.run(command, env=env, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    gets = sum('/resolve/' in path for method, path, *_ in server.requests if method == 'GET')
    assert gets == len(files)
  assert video.probe(tmp_path / 'out.mp4').num_frames == 30  # a second at the rate of the published weights
