rule stain:
    input:
        slide=slide_input,
        run=config["run"],
    output:
        touch("batch/done/{slide}.{markers}.done"),
    log:
        "batch/logs/{slide}.{markers}.log",
    params:
        slide=lambda w: SLIDES[w.slide]["path"],
        folder=lambda w: SLIDES[w.slide]["folder"],
        markers=lambda w: SLIDES[w.slide]["markers"],
        mpp=lambda w: ["--mpp", SLIDES[w.slide]["mpp"]] if SLIDES[w.slide]["mpp"] else [],
    threads: config["threads"]
    resources:
        mem_mb=config["mem_mb"],
        runtime=config["runtime_minutes"],
        gpu=config["gpu"],
    # the mode is no parameter: a finished slide is not stained again because this call resumes and the last did not
    shell:
        "{KNOWN_MARKERS}wsistain run {params.slide:q} --marker {params.markers:q} --output {params.folder:q} --config {input.run:q}"
        " {params.mpp:q} --{config[mode]} > {log:q} 2>&1"
