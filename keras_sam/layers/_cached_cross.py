"""The calls of `CrossAttention` with a cache of its keys and values."""

from keras import ops
from keras.src.backend.common.variables import AutocastScope

from keras_sam import _validation as check
from keras_sam.attention import cache as caches
from keras_sam.attention.request import Constants
from keras_sam.attention.slots import Seen, attend_seen
from keras_sam.layers._cached import CachedLayer
from keras_sam.layers._masks import check_mask, check_segments, keras_mask, without_padding
from keras_sam.normalizers.masking import both
from keras_sam.recording import AttentionDetails, is_recording, record


class CachedCrossAttention(CachedLayer):
    """What `CrossAttention` does with a cache."""

    def make_cache(
        self, value, key=None, value_mask=None, key_mask=None, value_segment_ids=None
    ):
        """Returns the keys and values of `value`, for calls that need not project it again.

        Args:
            value: See the call arguments.
            key: See the call arguments.
            value_mask: See the call arguments.
            key_mask: See the call arguments.
            value_segment_ids: See the call arguments.

        Returns:
            A tensor `(B, 2, S, key heads, D)` of the layer's compute dtype. With a mask or
            segments it is a dictionary of tensors, with that tensor under
            `"keys_values"`.

        Raises:
            ValueError: If the layer is not built, or has another width of values than of
                keys.
        """
        self._check_depths()
        key = value if key is None else key
        value, key = (
            ops.convert_to_tensor(x, dtype=self.compute_dtype) for x in (value, key)
        )
        masks = [keras_mask(x, m, 2) for x, m in ((value, value_mask), (key, key_mask))]
        for name, tensor in (("value", value), ("key", key)):
            self._check_shape(name, tensor.shape)
            if len(tensor.shape) != 3:
                expected = "of shape (batch, length, channels) where there is a cache"
                raise ValueError(
                    f"`{name}` must be {expected}, in {self._where}. "
                    f"Received: {name}.shape={tuple(tensor.shape)}"
                )
        for name, mask, tensor in zip(
            ("value_mask", "key_mask"), masks, (value, key), strict=True
        ):
            check_mask(self, name, mask, tensor)
        check_segments(self, value_segment_ids=(value_segment_ids, value))
        mask = both(*masks)
        key, value = (without_padding(x, mask) for x in (key, value))
        with AutocastScope(self.compute_dtype):
            key, value = self.key_dense(key), self.value_dense(value)
        length = ops.shape(key)[1]
        positions = ops.arange(length, dtype="int32")[None]
        key = self._encoded_key(key, positions)
        if mask is not None:
            positions = ops.where(mask, positions, caches.EMPTY)
        segments = value_segment_ids
        cache = caches.Cache(
            ops.stack([ops.cast(key, value.dtype), value], axis=1),
            None if mask is None else positions,
            None if segments is None else ops.cast(segments, "int32"),
        )
        return cache.given()

    def _encoded_key(self, key, positions):
        if not self.score.encodes:
            return key
        batch, _, _, depth = ops.shape(key)
        row = ops.zeros((batch, self.num_heads, 1, depth), key.dtype)
        key = ops.swapaxes(key, 1, 2)
        _, key = self.score.encode(row, key, ops.zeros((1, 1), "int32"), positions)
        return ops.swapaxes(key, 1, 2)

    def _encoded_query(self, query, positions):
        if not self.score.encodes:
            return query
        shape = ops.shape(query)
        key = ops.zeros((shape[0], self._head_sizes[0], 1, shape[3]), query.dtype)
        query, _ = self.score.encode(query, key, positions, ops.zeros((1, 1), "int32"))
        return query

    @property
    def _looks_at_positions(self):
        """Whether the position of a query row may change anything."""
        where = self._asked().positions
        return not where.allow_all or self.score.encodes or bool(self.score.modifiers())

    def _attend_to_cache(
        self,
        query,
        cache,
        index,
        *,
        query_mask,
        return_attention_scores,
        training,
        use_causal_mask,
        query_segment_ids,
        **pairs,
    ):
        """Attends to what `make_cache` returned; returns what `call` does, as a tuple."""
        self._check_depths()
        self._check_step("query", query, training)
        self._check_shape("query", query.shape)
        batch, rows, _ = query.shape
        cache, asked = self._taken(cache, batch, False), self._asked(use_causal_mask)
        by_position = self._looks_at_positions or use_causal_mask
        if index is None and by_position:
            expected = (
                "the position of the first row of `query`, because `mask` or `score` may "
                f"look at it, in {self._where}"
            )
            raise check.invalid("cache_update_index", expected, index)
        index = 0 if index is None else self._checked_index(index, batch)
        check_mask(self, "query_mask", query_mask, query)
        check_segments(self, query_segment_ids=(query_segment_ids, query))
        slots = cache.keys_values.shape[2]
        mask, bias = self._over_slots(query, slots, **pairs)
        rows = ops.shape(query)[1] if rows is None else rows
        step = caches.Step(index, rows, slots, ring=False, mask=query_mask)
        query = without_padding(query, query_mask)
        gate = None if self.gate_dense is None else self.gate_dense(query)
        found = ops.swapaxes(self.query_dense(query), 1, 2)
        found = self._encoded_query(found, step.query_positions)
        seen = Seen(
            cache.keys_values[:, 0],
            cache.keys_values[:, 1],
            cache.positions,
            cache.segments,
        )
        if query_mask is not None:
            mask = both(mask, query_mask[:, None, :, None])
        at = Constants(
            mask=mask, query_segments=query_segment_ids, key_segments=seen.segments
        )
        if by_position or cache.positions is not None:
            positions = seen.positions
            if positions is None:
                positions = ops.arange(slots, dtype="int32")[None]
            at = at._replace(query_positions=step.query_positions, key_positions=positions)
        recording = is_recording()
        whole = return_attention_scores or recording
        output, weights, allowed, _ = attend_seen(asked, found, seen, at, bias, whole=whole)
        if recording:
            record(self, weights, AttentionDetails(self.kind), allowed)
        output = self._finish(output, gate)
        cache = cache.given()
        return (output, weights, cache) if return_attention_scores else (output, cache)
