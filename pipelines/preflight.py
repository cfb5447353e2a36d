"""What a preflight found, in lines for a person."""

from datetime import timedelta

from sam_engine.annotation.preflight import PreflightReport


def preflight_lines(report: PreflightReport) -> list[str]:
    """Return what is to be done, who may do it, and what it takes."""
    hosts = {check.host for check in report.checks}
    lines = [
        f"images    {report.num_images:,} in {report.num_shards:,} open shards, for {report.output}",
        f"workers   {len(report.sound)} of {len(report.checks)} are sound, on {len(hosts)} machines",
    ]
    lines += [f"refused   {check.host}: {'; '.join(check.problems)}" for check in report.refused]
    if not report.sound or not report.num_images:
        return lines
    hours, pace = report.worker_seconds / 3600, report.worker_seconds / report.num_images
    tried = sum(check.num_images for check in report.sound)
    lines += [
        f"speed     {pace:.2f} s an image and worker ({tried} were tried)",
        f"time      {timedelta(seconds=round(report.seconds))}, {hours:,.2f} worker hours",
        f"masks     {report.num_masks:,.0f}",
        f"size      {report.num_bytes / 2**20:,.1f} MiB",
    ]
    if report.cost is not None:
        lines.append(f"cost      {report.cost:,.2f}, at preflight.price_per_hour={report.price_per_hour:g}")
    return lines
