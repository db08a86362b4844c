"""Splitting one machine into several virtual devices.

TensorFlow is imported by the function, not by the module: under ``pytest --replicas`` it is
called as soon as TensorFlow is imported, also where a module of ours is what imports it.
"""

from __future__ import annotations

from distwatch.errors import VirtualDevicesError


def virtual_devices(n: int) -> list[str]:
    """Split this machine's CPU into ``n`` logical devices and name them.

    This has to happen before TensorFlow starts its devices (``tf.constant``,
    ``tf.data`` or an optimizer start them), and it is the one place that does it.

    Args:
        n: at least 1.

    Returns:
        Their names, such as ``CPU:0``.

    Raises:
        VirtualDevicesError: ``n`` is less than 1, or TensorFlow has started with fewer
            devices.
    """
    if n < 1:
        raise VirtualDevicesError(f"virtual_devices({n}): ask for at least one device.")
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    configured = tf.config.get_logical_device_configuration(cpu) or []
    wanted = [tf.config.LogicalDeviceConfiguration()] * max(n, len(configured))
    try:
        tf.config.set_logical_device_configuration(cpu, wanted)
    except RuntimeError as error:
        have = len(tf.config.list_logical_devices("CPU"))
        if have < n:
            raise VirtualDevicesError(
                f"{n} virtual devices were asked for, but TensorFlow has already "
                f"started with {have}; ask for them before anything creates a tensor "
                "(distwatch.testing.virtual_devices at the top of the script, or "
                "pytest --replicas)."
            ) from error
    return [f"CPU:{i}" for i in range(n)]
