<#
.SYNOPSIS
Step 2 on a Windows master: deploy and train. The work is done by "loraloom cluster"; see docs/cluster.md.
.PARAMETER WorkerIPs
Addresses of the workers.
.PARAMETER WorkersFile
workers.json in place of WorkerIPs.
.PARAMETER ConfigFile
Settings of the run.
.PARAMETER ProjectPath
Checkout to ship; the current folder when it is left out.
.PARAMETER Port
First of five TCP ports on the node of rank 0.
.PARAMETER SkipDeploy
The workers have this release already.
.PARAMETER DryRun
Print the exact commands; start nothing.
.PARAMETER More
More options of "loraloom cluster launch".
#>
[CmdletBinding()]
param(
    [string[]]$WorkerIPs = @(),
    [string]$WorkersFile = '',
    [Parameter(Mandatory = $true)]
    [string]$ConfigFile,
    [string]$ProjectPath = '',
    [ValidateRange(1024, 65530)]
    [int]$Port = 29500,
    [switch]$SkipDeploy,
    [switch]$DryRun,
    [string[]]$More = @()
)

Set-StrictMode -Version 3.0
$ErrorActionPreference = 'Stop'

$Arguments = @('cluster', 'launch', '--config', $ConfigFile, '--port', "$Port")
if ($WorkersFile -ne '') {
    $Arguments += @('--workers-file', $WorkersFile)
}
if ($WorkerIPs.Count -gt 0) {
    $Arguments += @('--workers', ($WorkerIPs -join ','))
}
if ($ProjectPath -ne '') {
    $Arguments += @('--project-path', $ProjectPath)
}
if ($SkipDeploy) {
    $Arguments += '--skip-deploy'
}
if ($DryRun) {
    $Arguments += '--dry-run'
}
$Arguments += $More

if ((Get-Command 'uv' -ErrorAction SilentlyContinue) -and (Test-Path -Path 'pyproject.toml')) {
    & uv run --extra cluster loraloom @Arguments
}
else {
    & loraloom @Arguments
}
exit $LASTEXITCODE
