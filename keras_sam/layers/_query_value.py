"""The call of a layer in which one tensor attends to another."""

from keras_sam import _validation as check
from keras_sam.layers._composite import CompositeLayer
from keras_sam.layers._masks import check_mask, check_segments, keras_mask, pass_on
from keras_sam.normalizers.masking import both


class QueryValueAttention(CompositeLayer):
    """Base of the layers that are called with a query, a value and perhaps a key.

    A subclass has `_attend(query, key, value, **others)`, which returns what a call does;
    `_output_specs(query, key, return_attention_scores, value)`, which returns the same as
    symbols; and `_check_shapes(query, value, key)` and `_check_pairs(query, value,
    attention_mask, attention_bias)`, which refuse what does not fit.
    """

    def call(
        self,
        query,
        value,
        key=None,
        query_mask=None,
        value_mask=None,
        key_mask=None,
        attention_mask=None,
        attention_bias=None,
        return_attention_scores=False,
        training=None,
        use_causal_mask=False,
        query_segment_ids=None,
        value_segment_ids=None,
    ):
        query_mask = keras_mask(query, query_mask, len(query.shape) - 1)
        value_mask = keras_mask(value, value_mask, len(value.shape) - 1)
        key = value if key is None else key
        key_mask = keras_mask(key, key_mask, len(key.shape) - 1)
        masks = query_mask, value_mask, key_mask
        pairs = {"attention_mask": attention_mask, "attention_bias": attention_bias}
        segments = query_segment_ids, value_segment_ids
        self._check_call((query, value, key), masks, pairs, segments, use_causal_mask)
        outputs = self._attend(
            query,
            key,
            value,
            query_mask=query_mask,
            key_mask=both(value_mask, key_mask),
            return_attention_scores=return_attention_scores,
            training=training,
            use_causal_mask=use_causal_mask,
            query_segment_ids=query_segment_ids,
            key_segment_ids=value_segment_ids,
            **pairs,
        )
        pass_on(outputs[0] if return_attention_scores else outputs, query_mask)
        return outputs

    def compute_output_spec(
        self,
        query,
        value,
        key=None,
        query_mask=None,
        value_mask=None,
        key_mask=None,
        attention_mask=None,
        attention_bias=None,
        return_attention_scores=False,
        training=None,
        use_causal_mask=False,
        query_segment_ids=None,
        value_segment_ids=None,
    ):
        key = value if key is None else key
        masks = query_mask, value_mask, key_mask
        pairs = {"attention_mask": attention_mask, "attention_bias": attention_bias}
        segments = query_segment_ids, value_segment_ids
        self._check_call((query, value, key), masks, pairs, segments, use_causal_mask)
        outputs = self._output_specs(query, key, return_attention_scores, value)
        pass_on(outputs[0] if return_attention_scores else outputs, query_mask)
        return outputs

    def _check_call(self, tensors, masks, pairs, segments, use_causal_mask):
        """Checks a call; `tensors` and `masks` are those of query, value and key."""
        query, value, key = tensors
        check.flag("use_causal_mask", use_causal_mask)
        self._check_shapes(query.shape, value.shape, key.shape)
        names = "query_mask", "value_mask", "key_mask"
        for name, mask, tensor in zip(names, masks, tensors, strict=True):
            check_mask(self, name, mask, tensor)
        self._check_pairs(query, value, **pairs)
        of_query, of_value = segments
        check_segments(
            self,
            query_segment_ids=(of_query, query),
            value_segment_ids=(of_value, value),
        )
