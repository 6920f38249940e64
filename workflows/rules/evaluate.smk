rule evaluate:
    input:
        "batch/done/{job}.done",
    output:
        report(
            directory("batch/reports/{job}"),
            htmlindex="report.html",
            caption="../report/slide.rst",
            category="Slides",
            labels={"slide and markers": "{job}"},
        ),
    log:
        "batch/logs/{job}.evaluate.log",
    params:
        stained=lambda w: stained(JOBS[w.job]),
    threads: 1
    resources:
        mem_mb=config["mem_mb"],
        runtime=config["runtime_minutes"],
    shell:
        "{KNOWN_MARKERS}wsistain evaluate --slides {params.stained:q} --output {output:q} --overwrite > {log:q} 2>&1"
