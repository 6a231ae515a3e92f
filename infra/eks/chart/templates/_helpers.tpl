{{/* Refuses, by name, what the schema cannot see. */}}
{{- define "mrcnn.check" -}}
{{- if not .Values.image }}{{ fail "image is not set: give REGISTRY/NAME:TAG, by infra/eks/values.yaml or --set image=..." }}{{ end }}
{{- if gt (len .Release.Name) 40 }}{{ fail (printf "the release's name %s is longer than 40 letters" .Release.Name) }}{{ end }}
{{- $runs := include "mrcnn.volumeOf" (dict "path" .Values.runs "volumes" .Values.volumes) }}
{{- if not $runs }}{{ fail (printf "runs=%s lies in no volume: what is written there would end with the pod" .Values.runs) }}{{ end }}
{{- range .Values.volumes }}
{{- if and (eq .name $runs) (eq .kind "s3") }}{{ fail (printf "runs=%s lies in volume %s of kind s3, which cannot rename: checkpoints need another volume" $.Values.runs .name) }}{{ end }}
{{- end }}
{{- if not (include "mrcnn.volumeOf" (dict "path" .Values.dataRoot "volumes" .Values.volumes)) }}{{ fail (printf "dataRoot=%s lies in no volume" .Values.dataRoot) }}{{ end }}
{{- $names := list "shm" "scripts" "hugepages" }}{{- $paths := list }}
{{- range .Values.volumes }}
{{- if has .name $names }}{{ fail (printf "volumes: the name %s is taken" .name) }}{{ end }}{{- $names = append $names .name }}
{{- if has .path $paths }}{{ fail (printf "volumes: two of them have the path %s" .path) }}{{ end }}{{- $paths = append $paths .path }}
{{- end }}
{{- end }}

{{/* The name of the volume that holds a path: the one with the longest path; empty where there is none. */}}
{{- define "mrcnn.volumeOf" -}}
{{- $best := dict "name" "" "length" 0 }}
{{- range .volumes }}
{{- if and (hasPrefix (printf "%s/" .path) (printf "%s/" $.path)) (gt (len .path) $best.length) }}{{- $best = dict "name" .name "length" (len .path) }}{{- end }}
{{- end }}
{{- $best.name }}
{{- end }}

{{- define "mrcnn.runDir" -}}
{{ .Values.runs }}/{{ .Release.Name }}
{{- end }}

{{/* Variables of the ranks: those of the values, and for EFA its provider. */}}
{{- define "mrcnn.rankEnvironment" -}}
{{- toYaml (merge (dict) .Values.env (ternary (dict "FI_PROVIDER" "efa") (dict) (gt (int .Values.efa) 0))) }}
{{- end }}

{{- define "mrcnn.environment" -}}
- name: HOME
  value: {{ .Values.home }}
- name: SSH_PORT
  value: {{ .Values.sshPort | quote }}
- name: RUN_DIR
  value: {{ include "mrcnn.runDir" . }}
{{- range $name, $value := fromYaml (include "mrcnn.rankEnvironment" .) }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{- define "mrcnn.resources" -}}
{{- $amounts := dict "cpu" (.Values.cpu | toString) "memory" .Values.memory }}
{{- if .Values.gpu }}{{- $_ := set $amounts "nvidia.com/gpu" (.Values.slotsPerWorker | toString) }}{{- end }}
{{- if gt (int .Values.efa) 0 }}
{{- $_ := set $amounts "vpc.amazonaws.com/efa" (.Values.efa | toString) }}
{{- $_ := set $amounts "hugepages-2Mi" .Values.hugepages2Mi }}
{{- end }}
limits: {{- toYaml $amounts | nindent 2 }}
requests: {{- toYaml $amounts | nindent 2 }}
{{- end }}

{{- define "mrcnn.securityContext" -}}
runAsNonRoot: true
runAsUser: {{ .Values.user }}
runAsGroup: {{ .Values.user }}
fsGroup: {{ .Values.user }}
fsGroupChangePolicy: OnRootMismatch
{{- end }}

{{- define "mrcnn.claims" -}}
{{- range .Values.volumes }}
- name: {{ .name }}
  persistentVolumeClaim:
    claimName: {{ .claim }}
    {{- if eq .kind "s3" }}
    readOnly: true
    {{- end }}
{{- end }}
{{- end }}

{{/* What launcher and workers have in common, all but the container's command. */}}
{{- define "mrcnn.pod" -}}
serviceAccountName: {{ .Values.serviceAccount }}
automountServiceAccountToken: false
terminationGracePeriodSeconds: {{ .Values.graceSeconds }}
securityContext: {{- include "mrcnn.securityContext" . | nindent 2 }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .Values.gpu }}
affinity:
  podAntiAffinity:  # one pod a machine: it takes all GPUs
    requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            mrcnn/run: {{ .Release.Name }}
{{- end }}
volumes:
  - name: shm
    emptyDir:
      medium: Memory
      sizeLimit: {{ .Values.sharedMemory }}
  - name: scripts
    configMap:
      name: {{ .Release.Name }}-scripts
      defaultMode: 0555
  {{- if gt (int .Values.efa) 0 }}
  - name: hugepages
    emptyDir:
      medium: HugePages-2Mi
  {{- end }}
  {{- include "mrcnn.claims" . | nindent 2 }}
{{- end }}

{{- define "mrcnn.mounts" -}}
- name: shm
  mountPath: /dev/shm
- name: scripts
  mountPath: /etc/mrcnn
{{- if gt (int .Values.efa) 0 }}
- name: hugepages
  mountPath: /hugepages
{{- end }}
{{- range .Values.volumes }}
- name: {{ .name }}
  mountPath: {{ .path }}
  {{- if eq .kind "s3" }}
  readOnly: true
  {{- end }}
{{- end }}
{{- end }}
