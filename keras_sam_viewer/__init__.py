"""The attention viewer: its records, one offline page, and the plugin of TensorBoard.

Nothing here imports Keras or TensorFlow, so that TensorBoard's process stays light.
"""
