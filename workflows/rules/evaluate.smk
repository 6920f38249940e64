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
    conda:
        "../envs/wsistain.yaml"
    threads: 1
    resources:
        **CALL,
        mem_mb=config["mem_mb"],
        runtime=config["runtime_minutes"],
    params:
        stained=lambda w: stained(JOBS[w.job]),
    shell:
        "{resources.known_markers}wsistain evaluate --slides {params.stained:q} --output {output:q} --overwrite > {log:q} 2>&1"
