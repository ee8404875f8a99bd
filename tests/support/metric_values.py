"""What a metric says now."""

from prometheus_client.metrics import MetricWrapperBase


def value_of(metric: MetricWrapperBase) -> float:
    """The one value of a counter or a gauge, or of one of its children."""
    (value,) = (
        sample.value
        for family in metric.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    )
    return float(value)
