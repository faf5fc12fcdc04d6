"""TensorBoard's plugin: the viewer's files, and the blobs of runs, read-only."""

import json
import re
import struct

import werkzeug
from tensorboard import errors, plugin_util
from tensorboard.backend import http_util
from tensorboard.data import provider
from tensorboard.plugins import base_plugin

from keras_sam_viewer.html import STATIC
from keras_sam_viewer.records import LARGEST, RecordError, check_blob
from keras_sam_viewer.runs import META_TAG, PLUGIN, STATS_TAG, map_tag

_TYPES = {".js": "application/javascript", ".css": "text/css"}
_EVERYTHING = 10_000  # steps of a tag, more than TensorBoard keeps
_CACHED = 4096  # tags of which the keys of blobs are remembered
_INTEGER = re.compile(r"-?\d{1,18}")


class _Refused(Exception):
    """A request that gets a sentence: the status and the sentence."""


class AttentionPlugin(base_plugin.TBPlugin):
    """Serves a fixed table of files and four routes; see `docs/viewer_records.md`."""

    plugin_name = PLUGIN

    def __init__(self, context):
        super().__init__(context)
        self._provider = context.data_provider
        self._known = {}  # the keys of the blobs of a tag, by step

    def get_plugin_apps(self):
        files = {
            f"/{path.name}": _file_app(path)
            for path in sorted(STATIC.iterdir())
            if path.suffix in _TYPES
        }
        return {
            **files,
            "/runs": self._app(self._runs),
            "/meta": self._app(self._meta, "run"),
            "/stats": self._app(self._stats, "run"),
            "/map": self._app(self._map, "run", "layer", "step", "example"),
        }

    def is_active(self):
        return False  # TensorBoard looks for data of this plugin by itself

    def frontend_metadata(self):
        return base_plugin.FrontendMetadata(
            es_module_path="/index.js", tab_name="Attention"
        )

    def _app(self, answer, *names):
        """Makes a WSGI application of a function of the parameters `names`."""

        @werkzeug.Request.application
        def app(request):
            try:
                if request.method not in ("GET", "HEAD"):
                    raise _Refused(405, "This address can only be read.")
                arguments = _parameters(request.args, names)
                context = plugin_util.context(request.environ)
                experiment = plugin_util.experiment_id(request.environ)
                content, kind, encoding = answer(context, experiment, **arguments)
            except _Refused as refused:
                status, sentence = refused.args
                return _error(request, status, sentence)
            except RecordError as error:
                return _error(request, 404, str(error))
            except errors.PublicError:
                return _error(request, 404, "TensorBoard has no such record.")
            except Exception:  # whatever a data provider raises: no traceback in the log
                return _error(request, 404, "TensorBoard could not read this record.")
            return http_util.Respond(request, content, kind, content_encoding=encoding)

        return app

    def _runs(self, context, experiment):
        listed = self._provider.list_blob_sequences(
            context, experiment_id=experiment, plugin_name=PLUGIN
        )
        names = sorted(run for run, tags in listed.items() if META_TAG in tags)
        keys = self._read_keys(context, experiment, names, STATS_TAG)
        runs = [{"name": name, "steps": sorted(keys.get(name, {}))} for name in names]
        return json.dumps({"runs": runs}), "application/json", None

    def _meta(self, context, experiment, run):
        keys = self._read_keys(context, experiment, [run], META_TAG).get(run)
        if not keys:
            raise _Refused(404, "There is no such run.")
        return self._blob(context, keys[max(keys)], 0)

    def _stats(self, context, experiment, run):
        keys = self._read_keys(context, experiment, [run], STATS_TAG).get(run)
        if not keys:
            raise _Refused(404, "There is no such run.")
        parts, total = [], 0
        for step in sorted(keys):
            blob = self._provider.read_blob(context, blob_key=keys[step][0])
            total += len(blob)
            if total > LARGEST:
                raise RecordError("This run has too many steps to show at once.")
            try:
                check_blob(blob)
            except RecordError:
                continue  # a step that cannot be read is left out
            parts += [struct.pack("<I", len(blob)), blob]
        return b"".join(parts), "application/octet-stream", None

    def _map(self, context, experiment, run, layer, step, example):
        tag = experiment, run, layer
        keys = self._known.get(tag, {})
        if step not in keys:
            found = self._read_keys(context, experiment, [run], map_tag(layer))
            keys = found.get(run)
            if not keys:
                raise _Refused(404, "There is no such run or layer.")
            if len(self._known) >= _CACHED:
                self._known.clear()
            self._known[tag] = keys
        if step not in keys:
            raise _Refused(404, f"Step {step} has no map of this layer, or is not kept.")
        return self._blob(context, keys[step], example)

    def _read_keys(self, context, experiment, runs, tag):
        """Returns the keys of blobs, by run and by step, of a tag."""
        found = self._provider.read_blob_sequences(
            context,
            experiment_id=experiment,
            plugin_name=PLUGIN,
            downsample=_EVERYTHING,
            run_tag_filter=provider.RunTagFilter(runs=runs, tags=[tag]),
        )
        return {
            run: {
                datum.step: [reference.blob_key for reference in datum.values]
                for datum in tags.get(tag, ())
                if datum.values
            }
            for run, tags in found.items()
        }

    def _blob(self, context, keys, index):
        if index >= len(keys):
            raise _Refused(404, "There is no such example.")
        blob = self._provider.read_blob(context, blob_key=keys[index])
        check_blob(blob)
        return blob, "application/octet-stream", "gzip"


def _parameters(given, names):
    """Returns the parameters of a request by name, integers where they are."""
    if sorted(given.keys()) != sorted(names) or len(list(given.items(multi=True))) != len(
        names
    ):
        listed = ", ".join(names) or "none"
        raise _Refused(400, f"The parameters of this address are: {listed}.")
    found = {}
    for name, value in given.items():
        if name != "run":
            if not _INTEGER.fullmatch(value) or (name != "step" and value[0] == "-"):
                raise _Refused(400, f"The parameter {name} must be an integer.")
            value = int(value)
        found[name] = value
    return found


def _error(request, status, sentence):
    content = json.dumps({"error": sentence})
    return http_util.Respond(request, content, "application/json", code=status)


def _file_app(path):
    @werkzeug.Request.application
    def app(request):
        content = path.read_text(encoding="utf-8")
        return http_util.Respond(request, content, _TYPES[path.suffix])

    return app
