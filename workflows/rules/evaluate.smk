rule evaluate:
    input:
        "batch/done/{slide}.{markers}.done",
    output:
        report(
            directory("batch/reports/{slide}.{markers}"),
            htmlindex="report.html",
            caption="../report/slide.rst",
            category="Slides",
            labels={"slide": "{slide}", "markers": "{markers}"},
        ),
    log:
        "batch/logs/{slide}.{markers}.evaluate.log",
    params:
        stained=lambda w: stained(SLIDES[w.slide]),
    threads: 1
    resources:
        mem_mb=config["mem_mb"],
        runtime=config["runtime_minutes"],
    shell:
        "{KNOWN_MARKERS}wsistain evaluate --slides {params.stained:q} --output {output:q} --overwrite > {log:q} 2>&1"
