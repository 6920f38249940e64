rule stain:
    input:
        slide=slide_input,
        run=config["run"],
    output:
        touch("batch/done/{job}.done"),
    log:
        "batch/logs/{job}.log",
    conda:
        "../envs/wsistain.yaml"
    threads: config["threads"]
    resources:
        **CALL,
        mem_mb=config["mem_mb"],
        runtime=config["runtime_minutes"],
        gpu=config["gpu"],
    params:
        slide=lambda w: JOBS[w.job]["path"],
        folder=lambda w: JOBS[w.job]["folder"],
        markers=lambda w: JOBS[w.job]["markers"],
        mpp=lambda w: ["--mpp", JOBS[w.job]["mpp"]] if JOBS[w.job]["mpp"] else [],
        series=lambda w: ["--series", JOBS[w.job]["series"]] if JOBS[w.job]["series"] else [],
        roi=lambda w: ["--roi", JOBS[w.job]["roi"]] if JOBS[w.job]["roi"] else [],
        roi_class=lambda w: ["--roi-class", JOBS[w.job]["roi_class"]] if JOBS[w.job]["roi_class"] else [],
    shell:
        "{resources.known_markers}wsistain run {params.slide:q} --marker {params.markers:q} --output {params.folder:q} --config {input.run:q}"
        " {params.mpp:q} {params.series:q} {params.roi:q} {params.roi_class:q} --{resources.mode} > {log:q} 2>&1"
