rule summary:
    input:
        [done_file(job) for job in JOBS],
    output:
        report("summary.html", caption="../report/summary.rst", category="Batch"),
    log:
        "batch/logs/summary.log",
    conda:
        "../envs/wsistain.yaml"
    threads: 1
    resources:
        **CALL,
    params:
        sheet=config["slides"],
        markers=config["markers"],
    shell:
        "{resources.known_markers}wsistain summary . --sheet {params.sheet:q} --marker {params.markers:q} > {log:q} 2>&1"
