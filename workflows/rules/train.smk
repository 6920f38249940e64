rule train:
    input:
        lambda w: config["training"][w.name],
    output:
        "batch/training/{name}/weights.safetensors",
    log:
        "batch/logs/training.{name}.log",
    conda:
        "../envs/wsistain.yaml"
    threads: config["threads"]
    resources:
        **CALL,
        mem_mb=config["mem_mb"],
        runtime=config["training_minutes"],
        gpu=config["gpu"],
    shell:
        "{resources.known_markers}wsistain train {input:q} --output batch/training/{wildcards.name:q} --resume > {log:q} 2>&1"
